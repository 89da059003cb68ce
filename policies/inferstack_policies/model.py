"""The data that rules see and give back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
UNKNOWN = "[unknown]"
"""Stands in a planned resource for a value that only the provider will know."""

_GROUPS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("Pod", "Service", "ConfigMap", "Secret", "Namespace", "ReplicationController", "Deployment", "StatefulSet"), ()),
    **dict.fromkeys(("DaemonSet", "ReplicaSet", "Job", "CronJob", "PodDisruptionBudget", "HorizontalPodAutoscaler"), ()),
    **dict.fromkeys(("NodePool", "AgentPool", "Cluster", "ManagedCluster", "Bucket", "Instance", "Database", "Registry", "Redis"), ()),
    **dict.fromkeys(("NetworkPolicy", "Ingress", "IngressClass"), ("networking.k8s.io",)),
    **dict.fromkeys(("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"), ("rbac.authorization.k8s.io",)),
    **dict.fromkeys(("Gateway", "HTTPRoute"), ("gateway.networking.k8s.io",)),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io",),
    "ScaledObject": ("keda.sh",),
}
"""Kinds that rules know, and the domains of which they are: the same word of another domain is another thing."""

PriceOf = Callable[[str, str, str, str, int], float | None]
"""(platform, machine type, region, capacity, GPUs) -> USD per hour, or None where no price is known."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One planned resource: its Pulumi type, its name, and its inputs as the provider gets them (camel case)."""

    type: str
    name: str
    props: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`Deployment`, `NodePool`, …: the last part of the type.

        With its group (`Job.batch.volcano.sh`) where it is a Kubernetes kind that only shares its name with one that rules know.
        """
        before, _, kind = self.type.rpartition(":")
        group = before.removeprefix("kubernetes:").rpartition("/")[0]
        foreign = self.is_kubernetes and "." in group and kind in _GROUPS and group not in _GROUPS[kind]
        return f"{kind}.{group}" if foreign else kind

    @property
    def is_kubernetes(self) -> bool:
        return self.type.startswith("kubernetes:")

    @property
    def metadata(self) -> Mapping[str, Any]:
        found = self.props.get("metadata") if self.is_kubernetes else None
        return found if isinstance(found, dict) else {}

    @property
    def object_name(self) -> str:
        """Name of the Kubernetes object, else of the resource."""
        found = self.metadata.get("name")
        return found if isinstance(found, str) and found != UNKNOWN else self.name

    @property
    def namespace(self) -> str:
        found = self.metadata.get("namespace")
        return found if isinstance(found, str) else "default"

    @property
    def path(self) -> str:
        """How a person finds it: `Deployment/inferstack-blue`."""
        return f"{self.kind}/{self.object_name}"


@dataclass(frozen=True, slots=True)
class Context:
    """What rules need to know that no resource says."""

    production: bool = False
    registries: tuple[str, ...] = ()
    """Registries, or folders of one, that images may come from; empty: any."""
    hourly_usd: float | None = None
    """Ceiling of a stack, both slots counted; None: no ceiling."""
    price_of: PriceOf | None = None
    """Prices; None: cost rules do not judge."""
    region: str | None = None
    platform: str | None = None
    verified_images: frozenset[str] | None = None
    """Images whose signature and bill of materials were verified; None: not known here."""
    autoscaler_grace_seconds: float = 600
    """What the cluster autoscaler waits for a pod before it removes a node."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a resource breaks; `path` is `Kind/name` and where in it."""

    rule: str
    severity: Severity
    path: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule's check yields: where inside which resource, and what is wrong."""

    resource: Resource
    where: str
    message: str


ResourceCheck = Callable[[Resource, Context], Iterator[tuple[str, str]]]
"""Yields (where, message) for one resource."""
StackCheck = Callable[[Sequence[Resource], Context], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it forbids and why, what to do instead, and the ids of scanners that ask for the same.

    `kinds` are the resource kinds that `check` is asked about; `check_stack` sees all resources at once.
    """

    id: str
    severity: Severity
    reason: str
    fix: str
    also: tuple[str, ...] = ()
    kinds: frozenset[str] = field(default_factory=frozenset)
    check: ResourceCheck | None = None
    check_stack: StackCheck | None = None
