"""The checks of a plan: each a function from an environment to findings, one module per question."""

from collections.abc import Callable, Iterator

from inferstack.environment import Environment
from inferstack.planning.checks import (
    amounts,
    budget,
    effects,
    gpus,
    hardware,
    memory,
    models,
    monitoring,
    origins,
    safety,
    scaling,
    timeouts,
)
from inferstack.planning.findings import Finding

Check = Callable[[Environment], Iterator[Finding]]

HARDWARE: tuple[Check, ...] = (*hardware.CHECKS, *gpus.CHECKS)
"""Can it be bought at all."""
INDEPENDENT: tuple[Check, ...] = (
    *models.CHECKS,
    *memory.CHECKS,
    *amounts.CHECKS,
    *scaling.CHECKS,
    *timeouts.CHECKS,
    *budget.CHECKS,
    *origins.CHECKS,
    *safety.CHECKS,
    *monitoring.CHECKS,
    *effects.CHECKS,
)
ON_HARDWARE: tuple[Check, ...] = (*hardware.ON_HARDWARE, *scaling.ON_HARDWARE, *budget.ON_HARDWARE)
"""Ask about nodes and prices; without nodes that can be bought their answers would only repeat the error."""


def run(environment: Environment) -> Iterator[Finding]:
    """All findings of an environment, in no order."""
    found = [finding for check in HARDWARE for finding in check(environment)]
    yield from found
    for check in INDEPENDENT:
        yield from check(environment)
    if not any(finding.severity == "error" for finding in found):
        for check in ON_HARDWARE:
            yield from check(environment)
