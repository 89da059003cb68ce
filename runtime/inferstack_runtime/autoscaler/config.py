"""The configuration of one autoscaler process: the JSON file of `inferstack-runtime autoscale --config FILE`."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from inferstack_runtime.config import Address, InvalidConfig, Positive, Seconds, Section, explain


class ReplicaConfig(Section):
    """What one replica has, so that its use can be told as a share; and its price, for the budget."""

    cpu_cores: Annotated[float, Field(gt=0)] = 1
    memory_bytes: Positive = 2 * 2**30
    hourly_usd: Annotated[float, Field(gt=0)] | None = None


class KubernetesScale(Section):
    """A Deployment whose number of replicas is set. Token and certificate authority are those of the pod's service account.

    `registration`: a ConfigMap with `scaling_policy`, `min_instances` and `max_instances`, in place of `state_file`. It is read at every
    look, so that whoever else moves the bounds (a promotion, before traffic comes) writes them there.
    """

    kind: Literal["kubernetes"]
    namespace: str = Field(min_length=1)
    deployment: str = Field(min_length=1)
    registration: Annotated[str, Field(min_length=1)] | None = None
    api: str = Field("https://kubernetes.default.svc", pattern=r"^https?://")
    token_file: str = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
    ca_file: str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"


class DryRunScale(Section):
    """Decides and says so, and changes nothing."""

    kind: Literal["dry_run"]


class TargetConfig(Section):
    """What a `model_key` stands for. `metrics`: addresses of replicas; of a name, all of its addresses are."""

    metrics: Annotated[tuple[Annotated[str, Field(pattern=r"^https?://")], ...], Field(min_length=1)]
    scale: Annotated[KubernetesScale | DryRunScale, Field(discriminator="kind")] = DryRunScale(kind="dry_run")
    replica: ReplicaConfig = ReplicaConfig()


class PolicyConfig(Section):
    """Targets of the policies; the defaults are those of the environments."""

    queue: Annotated[float, Field(gt=0)] = 4
    kv: Annotated[float, Field(gt=0, le=1)] = 0.8
    cpu: Annotated[float, Field(gt=0, le=1)] = 0.7
    memory: Annotated[float, Field(gt=0, le=1)] = 0.8
    down_seconds: Seconds = 300
    forecast_samples: Positive = 10
    """Looks ahead of `queue_forecast`."""


class AutoscalerConfig(Section):
    """Everything that an autoscaler process is told. `state_file` keeps registrations over a restart."""

    targets: Annotated[dict[str, TargetConfig], Field(min_length=1)]
    keys_file: str
    tiers: tuple[str, ...] = ("default", "premium")
    """Tiers that keys of the file may name; nothing is limited here."""
    listen: Address = Address()
    interval_seconds: Annotated[float, Field(gt=0)] = 15
    budget_hourly_usd: Annotated[float, Field(gt=0)] | None = None
    policy: PolicyConfig = PolicyConfig()
    state_file: str | None = None


def load_autoscaler_config(path: Path) -> AutoscalerConfig:
    """Read and validate FILE.json; raises InvalidConfig with every problem."""
    try:
        return AutoscalerConfig.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        lines = [explain(detail["loc"], detail["msg"], detail["input"], detail["type"]) for detail in error.errors(include_url=False)]
        raise InvalidConfig(f"{path}: {'; '.join(lines)}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path}: expected one JSON object: {error}") from None
