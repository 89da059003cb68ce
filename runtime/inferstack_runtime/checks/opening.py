"""Makes the checks that a configuration names."""

from collections.abc import Callable, Mapping

from inferstack_runtime.checks.base import Check
from inferstack_runtime.checks.injection import InjectionCheck
from inferstack_runtime.checks.runner import Checks, Configured
from inferstack_runtime.checks.secrets import SecretsCheck
from inferstack_runtime.config import CheckConfig
from inferstack_runtime.metrics import Metrics

KINDS: Mapping[str, Callable[[], Check]] = {"secrets": SecretsCheck, "injection": InjectionCheck}


def open_checks(configs: tuple[CheckConfig, ...], metrics: Metrics) -> Checks:
    """The checks of a process; raises CheckUnavailable."""
    return Checks([Configured(KINDS[config.kind](), config.mode, config.sides, config.sample) for config in configs], metrics)
