"""One environment: every section together, and what they run on.

Field descriptions are the reference: ``inferstack environment explain`` and docs/configuration.md are
generated from them, so they are written for the person who edits the file.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from inferstack.environment.kinds import (
    ENGINE_IMAGES,
    AddressRange,
    Argument,
    Day,
    EntraGroup,
    Flag,
    HttpUrl,
    Layer,
    Name,
    Namespace,
    NonNegative,
    Platform,
    Positive,
    Project,
    Section,
    SlotName,
    Subscription,
    TimeOfDay,
    Usd,
)
from inferstack.environment.traffic import Access, Cache, Drain, Gateway, Promotion
from inferstack.environment.workload import Engine, GpuPool, Model, Replicas, Scaling, Slots


class Budget(Section):
    """What the environment may cost."""

    hourly_usd: Usd | None = Field(None, description="Ceiling per hour, both slots counted while a promotion runs.")
    monthly_usd: Usd | None = Field(None, description="Ceiling per month of 730 hours.")


class Monitoring(Section):
    """Metrics, alerts and traces."""

    backend: Literal["bundled", "operator", "gmp", "azure", "none"] = Field("none", description="Who scrapes and alerts.")
    prometheus_url: HttpUrl | None = Field(None, description="Where gates and costs are queried; `local` finds its own.")
    otlp_endpoint: HttpUrl | None = Field(None, description="Where traces go; unset: none.")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="Alert thresholds by alert name, where the default does not fit."
    )
    receivers: dict[str, Name] = Field(
        default_factory=dict, description="Secret with the receiver's address, by severity (`page`, `ticket`)."
    )


class Network(Section):
    """Network of a cloud cluster."""

    cidr: AddressRange = Field("10.0.0.0/16", description="Address range of the nodes.")
    gateway_cidr: AddressRange = Field("10.70.0.0/24", description="Address range of Application Gateway for Containers (`aks`).")
    authorized_cidrs: tuple[str, ...] = Field(
        (), description="Ranges that may reach the control plane; empty: through IAM only (`gke`), refused on `aks`."
    )


class Cloud(Section):
    """The account and cluster that GKE and AKS environments create."""

    project: Project | None = Field(None, description="Google Cloud project (`gke`).")
    subscription: Subscription | None = Field(None, description="Azure subscription (`aks`).")
    admin_groups: tuple[EntraGroup, ...] = Field(
        (),
        description="Entra ID groups whose members, your pipeline among them, administer the cluster (`aks`); unset: by Azure roles alone.",
    )
    release_channel: Literal["rapid", "regular", "stable"] = Field("regular", description="How early new Kubernetes versions come.")
    kubernetes_version: str | None = Field(None, description="Kubernetes version where it must be fixed.")
    system_machine_type: str | None = Field(None, description="Machine type of the nodes for everything but models.")
    system_nodes: Replicas = Field(default_factory=lambda: Replicas(min=1, max=3), description="Bounds of that pool.")
    deletion_protection: Flag = Field(True, description="Refuse to delete cluster, bucket and registry.")
    network: Network = Field(default_factory=Network, description="Addresses.")
    maintenance_start: TimeOfDay = Field("03:00", description="Start of the daily maintenance window, UTC.")
    huge_pages: NonNegative = Field(0, description="2 MiB huge pages per GPU node (`gke`; AKS has transparent huge pages only).")


class SecretStore(Section):
    """Where the Secrets that an environment refers to come from."""

    name: Name = Field(description="ClusterSecretStore of the External Secrets operator that they are read from.")
    prefix: str = Field("", description="Put before a Secret's name to get its name in the store, for instance `prod-`.")
    refresh_seconds: Positive = Field(3600, description="How often they are read again.")


class Waiver(Section):
    """One accepted finding."""

    rule: Argument = Field(description="Identifier of the rule.")
    path: str = Field("*", description="Resource or path it holds for; `*`: all.")
    reason: str = Field(min_length=10, description="Why it is accepted.")
    owner: Argument = Field(description="Who answers for it.")
    expires: Day = Field(description="Last day, YYYY-MM-DD.")


class Environment(Section):
    """One environment: everything that `up`, `plan` and `promote` need to know."""

    platform: Platform = Field(description="Where it runs.")
    layer: Layer = Field(
        Layer.ALL, description="Part that this stack holds: `all`, or `platform` with one `slot` stack per slot beside it."
    )
    slot: SlotName | None = Field(None, description="The slot of a `layer: slot` stack.")
    production: Flag = Field(False, description="Stricter rules: digests, protection, a floor of replicas.")
    namespace: Namespace = Field("inferstack", description="Kubernetes namespace of the slots.")
    region: str | None = Field(None, description="Region of the cloud.")
    context: str | None = Field(None, description="kubeconfig context that must be current (`platform: kubernetes`).")
    models: tuple[Model, ...] = Field(min_length=1, description="Models that each slot serves.")
    engine: Engine = Field(default_factory=Engine, description="What runs them.")
    gpu: GpuPool | None = Field(None, description="GPU nodes; unset: CPU.")
    slots: Slots = Field(default_factory=Slots, description="The two slots.")
    scaling: Scaling = Field(default_factory=Scaling, description="Autoscaling.")
    access: Access = Field(default_factory=Access, description="Keys, tiers and limits.")
    cache: Cache = Field(default_factory=Cache, description="Response cache.")
    gateway: Gateway = Field(default_factory=Gateway, description="Gateway and route.")
    drain: Drain = Field(default_factory=Drain, description="Timeouts of a leaving replica.")
    promotion: Promotion = Field(default_factory=Promotion, description="Promotion and its gates.")
    budget: Budget = Field(default_factory=Budget, description="Cost ceilings.")
    secrets: SecretStore | None = Field(None, description="Source of the cluster's Secrets; unset: somebody else puts them there.")
    monitoring: Monitoring = Field(default_factory=Monitoring, description="Monitoring.")
    cloud: Cloud = Field(default_factory=Cloud, description="Account and cluster (`gke`, `aks`).")
    waivers: tuple[Waiver, ...] = Field((), description="Accepted findings.")

    @model_validator(mode="before")
    @classmethod
    def _cache_follows_engine(cls, data: Any) -> Any:
        """The default of `cache.backend`: what the platform and the engine can use."""
        if not isinstance(data, dict) or not isinstance(cache := data.get("cache", {}), dict) or "backend" in cache:
            return data
        engine = data.get("engine")
        kind = engine.get("kind") if isinstance(engine, dict) else getattr(engine, "kind", "native")
        backend = "none" if kind in ENGINE_IMAGES else "process" if data.get("platform") == Platform.LOCAL else "cluster"
        return {**data, "cache": {**cache, "backend": backend}}
