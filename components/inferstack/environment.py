"""The typed environment: parse, validate, explain. Nothing else reads raw configuration.

One environment is the object under ``inferstack:environment`` of ``stacks/Pulumi.<name>.yaml``.

    environment = load_environment(Path("stacks"), "local")     # raises InvalidEnvironment
    environment.models[0].quantization                            # 'gguf'

Field descriptions below are the reference: ``inferstack environment explain`` and docs/configuration.md are
generated from them, so they are written for the person who edits the file.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

CONFIG_KEY = "inferstack:environment"
BASE_KEY = "inferstack:base"
"""Names the environment that a stack's own object is laid over: a slot stack names its environment and says only what differs."""
FINDINGS_KEY = "inferstack:findings"
"""Set to `shown` by `inferstack plan`, which shows what is wrong; without it the program stops at planning errors."""
SLOT_KEY = "inferstack:slot"
"""What a promotion changed in a slot (`models`, `engine`, `slots.resources`, …), laid over the environment of that slot's stack."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class Platform(StrEnum):
    """Where an environment runs."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"
    GKE = "gke"
    AKS = "aks"


class Layer(StrEnum):
    """Which part of an environment one Pulumi stack holds."""

    ALL = "all"
    PLATFORM = "platform"
    SLOT = "slot"


class SlotName(StrEnum):
    """The two slots; every environment has both."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> "SlotName":
        return SlotName.GREEN if self is SlotName.BLUE else SlotName.BLUE


Quantization = Literal["none", "bf16", "fp16", "int8", "int4", "gguf", "nf4", "fp8", "awq", "gptq"]
Capacity = Literal["on_demand", "spot", "reservation", "flex_start"]
EngineKind = Literal["native", "transformers", "vllm", "sglang", "llamacpp", "openai"]
Positive = Annotated[int, Field(gt=0, strict=True)]
NonNegative = Annotated[int, Field(ge=0, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Usd = Annotated[float, Field(ge=0)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Model(_Section):
    """One model that the slots serve."""

    name: Name = Field(description="Name that clients send as `model`.")
    source: str = Field(
        pattern=r"^(package|file|hf|gs|abfss|s3)://.+$",
        description="Where the weights come from: `package://DIST`, `file://PATH`, `hf://ORG/REPO`, `gs://`, `abfss://` or `s3://`.",
    )
    digest: Digest | None = Field(None, description="SHA-256 of the weights file; required to promote outside `local`.")
    quantization: Quantization = Field("gguf", description="Weight format served: `none` and `bf16` are unquantized; `gguf` is as shipped.")
    context: Positive = Field(2048, description="Longest prompt plus answer, in tokens.")
    tier: Literal["fast", "quality"] = Field(
        "fast", description="`fast` (CPU, small model) or `quality` (GPU); chosen by `X-Tier` or by weight."
    )
    weight: Annotated[int, Field(ge=0, le=100, strict=True)] = Field(
        100, description="Share of untagged requests, in percent, among the tiers."
    )
    architecture: str | None = Field(None, description="Key of the planner's model catalogue; by default looked up by `name`.")


class Resources(_Section):
    """What one replica requests from the node."""

    cpu: Quantity = Field("1", description="CPU request of a replica, in cores.")
    cpu_limit: Quantity | None = Field(None, description="CPU limit; unset: no limit, so that a busy node's spare time can be used.")
    memory: Quantity = Field("2Gi", description="Memory request and limit of a replica.")
    ephemeral_storage: Quantity = Field("2Gi", description="Ephemeral storage request and limit of a replica.")


class Replicas(_Section):
    """Replica bounds of a slot."""

    min: NonNegative = Field(1, description="Fewest replicas of the slot that has weight. 0 only where a front holds requests.")
    max: Positive = Field(1, description="Most replicas; also the bound that cost and quota are checked against.")


class QualityTier(_Section):
    """Replicas of the `quality` models, where an environment serves both tiers."""

    replicas: Replicas = Field(default_factory=Replicas, description="Bounds of the quality replicas of each slot.")
    resources: Resources = Field(default_factory=Resources, description="Requests and limits of one quality replica.")


class Slots(_Section):
    """Both slots: bounds and resources of a replica."""

    replicas: Replicas = Field(default_factory=Replicas, description="Replica bounds of each slot.")
    idle_replicas: NonNegative = Field(
        1, description="Replicas of the slot without weight once the rollback window is over; during the window it keeps its full size."
    )
    resources: Resources = Field(default_factory=Resources, description="Requests and limits of one replica.")
    initial: SlotName = Field(SlotName.BLUE, description="The slot that gets all weight when an environment is first made.")
    quality: QualityTier | None = Field(
        None, description="Replicas of the `quality` models where both tiers are served; unset: as the `fast` ones."
    )


class Engine(_Section):
    """What runs the model."""

    kind: EngineKind = Field(
        "native",
        description="`native` and `transformers` are this kit's image; `vllm`, `sglang`, `llamacpp` and `openai` are other images.",
    )
    image: str | None = Field(None, description="Image reference, `REPOSITORY@sha256:DIGEST`. Not used by `local`.")
    threads: Positive | None = Field(None, description="Compute threads; by default the cores that the process may use.")
    max_sequences: Positive = Field(32, description="Most sequences decoded together.")
    max_batch_tokens: Positive = Field(512, description="Token budget of one step, decode and prefill together.")
    max_queue: NonNegative = Field(256, description="Requests that may wait; past that the answer is 429 with Retry-After.")
    kv_cache: Quantity = Field("512Mi", description="Upper bound of the KV cache of one replica.")
    tensor_parallel: Positive = Field(1, description="GPUs that share each layer (vllm only).")
    pipeline_parallel: Positive = Field(1, description="Groups of layers on different nodes (vllm only).")
    arguments: tuple[str, ...] = Field((), description="More arguments for an engine image that is not this kit's.")
    port: Positive = Field(8000, description="Port of the engine's HTTP API.")


class GpuPool(_Section):
    """GPU nodes that the slots run on."""

    accelerator: str = Field(description="GPU of the planner's catalogue, for instance `nvidia-l4`.")
    machine_type: str | None = Field(None, description="Machine type; by default the cheapest that carries the accelerator.")
    count: Positive = Field(1, description="GPUs of one replica.")
    capacity: Capacity = Field("on_demand", description="How the nodes are bought.")
    on_demand_floor: NonNegative = Field(
        0, description="Nodes bought on demand beside a spot pool, so that a stock-out never takes the last replica."
    )
    min_nodes: NonNegative = Field(0, description="Fewest nodes of the pool.")
    max_nodes: Positive = Field(
        2, description="Most nodes of the pool; both slots during a promotion must fit, or the plan must be stepped."
    )
    zones: tuple[str, ...] = Field((), description="Zones of the pool; by default all of the region that have the accelerator.")
    reservation: str | None = Field(None, description="Name of the reservation or capacity reservation group (`capacity: reservation`).")
    quota: NonNegative | None = Field(
        None, description="GPUs of this kind that the account may have in the region, where known; checked by the plan."
    )
    driver: Literal["default", "latest", "disabled"] = Field("default", description="Driver that the cloud installs.")
    partition: str | None = Field(None, description="MIG profile, for instance `1g.10gb`.")
    sharing: NonNegative = Field(0, description="Clients that share one GPU by time slices; 0: none.")
    local_ssd: NonNegative = Field(0, description="Local SSDs of a node that hold the ephemeral storage (`gke`).")
    image_disk: str | None = Field(
        None, description="Disk image with container images, attached to each node (`gke`): starts without a pull."
    )
    compact_placement: Flag = Field(False, description="Nodes close together, for models that span nodes (`gke`).")


class Scaling(_Section):
    """How replicas follow load."""

    renderer: Literal["keda", "hpa", "none"] = Field(
        "hpa", description="`keda` (ScaledObject), `hpa` (autoscaling/v2) or `none` (fixed at `replicas.min`)."
    )
    policy: Literal["queue", "cpu", "hybrid_smart"] = Field(
        "cpu", description="`queue`: waiting requests and KV use; `cpu`: CPU and memory; `hybrid_smart`: as in source B."
    )
    queue_target: Annotated[float, Field(gt=0)] = Field(4, description="Waiting requests per replica that the scaler aims at.")
    kv_target: Fraction = Field(0.8, description="KV cache use that the scaler aims at.")
    cpu_percent: Annotated[int, Field(gt=0, le=100, strict=True)] = Field(
        70, description="CPU use that the scaler aims at, in percent of the request."
    )
    memory_percent: Annotated[int, Field(gt=0, le=100, strict=True)] = Field(
        80, description="Memory use that the scaler aims at, in percent of the request."
    )
    up_window_seconds: Seconds = Field(60, description="Quiet time before more replicas.")
    down_window_seconds: Seconds = Field(300, description="Quiet time before fewer replicas.")
    prediction_horizon_minutes: NonNegative = Field(0, description="Forecast that may add replicas, never take any; 0: off.")


class Tier(_Section):
    """Limits of one class of API keys."""

    requests_per_minute: Positive = Field(description="Requests in any 60 s.")
    tokens_per_minute: Positive = Field(description="Prompt and answer tokens in any 60 s.")


def _default_tiers() -> dict[str, Tier]:
    return {
        "default": Tier(requests_per_minute=60, tokens_per_minute=100_000),
        "premium": Tier(requests_per_minute=1000, tokens_per_minute=1_000_000),
    }


class Access(_Section):
    """Who may call the API, and how often."""

    keys_secret: Name = Field(
        "inferstack-keys", description="Secret with the hashed API keys (`keys.json`) and the server secret; never the keys themselves."
    )
    tiers: dict[str, Tier] = Field(default_factory=_default_tiers, description="Limits per tier of key.")
    jwks_url: str | None = Field(None, pattern=r"^https?://", description="Key set for bearer JWTs of `/chat/stream`.")
    jwt_audience: str | None = Field(None, description="Required `aud` of those JWTs.")


class SemanticCache(_Section):
    """Answers for prompts that mean the same; off unless enabled."""

    enabled: Flag = Field(False, description="Turn the semantic tier on.")
    threshold: Annotated[float, Field(ge=0.9, le=1)] = Field(0.95, description="Cosine similarity from which a guarded hit counts.")


class Cache(_Section):
    """Response cache and shared counters (Redis protocol)."""

    engine: Literal["valkey", "redis"] = Field("valkey", description="Server that is deployed.")
    backend: Literal["cluster", "managed", "external", "process", "none"] = Field(
        "cluster",
        description="`cluster`: in the cluster; `managed`: the cloud's service; `external`: `url_secret`; `process`: a child here; `none`.",
    )
    size: Quantity = Field("1Gi", description="Memory of the cache.")
    high_availability: Flag = Field(False, description="A replica that takes over.")
    url_secret: Name | None = Field(None, description="Secret whose key `url` holds the address (`backend: external`).")
    ttl_seconds: Positive = Field(300, description="Life of a cached answer where no route says otherwise.")
    semantic: SemanticCache = Field(default_factory=SemanticCache, description="The semantic tier.")


class Gateway(_Section):
    """The way in."""

    class_name: str | None = Field(None, description="GatewayClass; by default that of the platform.")
    existing: str | None = Field(
        None, pattern=r"^[a-z0-9-]+/[a-z0-9-]+$", description="`NAMESPACE/NAME` of a Gateway that somebody else owns."
    )
    hostname: str | None = Field(None, description="Host name of the route.")
    tls_secret: Name | None = Field(None, description="Secret with the certificate; without it the listener is plain HTTP.")
    internal: Flag = Field(True, description="Reachable from the network of the cluster only.")
    port: Annotated[int, Field(gt=0, lt=65536, strict=True)] = Field(8080, description="Port of the listener (`local`: on 127.0.0.1).")
    timeout_seconds: Seconds = Field(600, description="Longest request; must cover the longest generation.")


class Drain(_Section):
    """How a replica leaves without losing a request."""

    pre_stop_seconds: Seconds = Field(10, description="Time that a leaving replica goes on accepting, until every gateway knows.")
    seconds: Seconds = Field(60, description="Time that running streams get to finish.")
    grace_seconds: Seconds = Field(90, description="Time until the platform kills the process; more than the two above together.")


class Gates(_Section):
    """What a new version must keep to be promoted. Compared with the live slot in the same window."""

    error_ratio: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="Highest share of failed requests.")
    ttft_p95_seconds: Seconds = Field(5, description="Highest 95th percentile of time to first token.")
    inter_token_p95_seconds: Seconds = Field(1, description="Highest 95th percentile of time between tokens.")
    slower_than_live: Annotated[float, Field(ge=1)] = Field(1.5, description="Most that both may be above the live slot's, as a factor.")
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Lowest top-1 agreement with the unquantized model; unset: not checked."
    )
    answers: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Lowest top-1 agreement with the live slot's answers to fixed texts, where both serve the same models."
    )
    usd_per_million_tokens: Usd | None = Field(None, description="Highest price of a million tokens; unset: not checked.")
    memory_growth: Annotated[float, Field(ge=0)] = Field(
        0.1, description="Most that a replica's resident memory may grow in a window, as a share."
    )
    cache_false_hit_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Highest share of checked semantic cache hits that were false."
    )
    min_requests: Positive = Field(
        20, description="Requests a window needs; fewer are filled up with synthetic ones, never passed silently."
    )
    window_seconds: Annotated[float, Field(gt=0)] = Field(30, description="Length of a comparison window.")


class Promotion(_Section):
    """How a new version gets the traffic."""

    strategy: Literal["blue_green", "canary", "rolling"] = Field(
        "blue_green", description="`blue_green`: all at once behind gates; `canary`: by `steps`; `rolling`: replicas in place."
    )
    steps: tuple[Annotated[int, Field(gt=0, le=100, strict=True)], ...] = Field(
        (100,), description="Weights of the new slot, in percent, ending with 100."
    )
    step_seconds: Seconds = Field(0, description="Time at each weight before its check.")
    ready_seconds: Seconds = Field(600, description="Time that the idle slot gets to become ready.")
    settle_count: Positive = Field(20, description="Answers in a row that must carry the new slot's identity through the gateway.")
    rollback_window_seconds: Seconds = Field(900, description="Time that the previous slot stays warm.")
    gates: Gates = Field(default_factory=Gates, description="Checks before and after the weights move.")


class Budget(_Section):
    """What the environment may cost."""

    hourly_usd: Usd | None = Field(None, description="Ceiling per hour, both slots counted while a promotion runs.")
    monthly_usd: Usd | None = Field(None, description="Ceiling per month of 730 hours.")


class Monitoring(_Section):
    """Metrics, alerts and traces."""

    backend: Literal["bundled", "operator", "gmp", "azure", "none"] = Field("none", description="Who scrapes and alerts.")
    prometheus_url: str | None = Field(None, pattern=r"^https?://", description="Where gates and costs are queried; `local` finds its own.")
    otlp_endpoint: str | None = Field(None, pattern=r"^https?://", description="Where traces go; unset: none.")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="Alert thresholds by alert name, where the default does not fit."
    )
    receivers: dict[str, str] = Field(
        default_factory=dict, description="Secret with the receiver's address, by severity (`page`, `ticket`)."
    )


class Network(_Section):
    """Network of a cloud cluster."""

    cidr: str = Field("10.0.0.0/16", pattern=r"^\d+\.\d+\.\d+\.\d+/\d+$", description="Address range of the nodes.")
    authorized_cidrs: tuple[str, ...] = Field((), description="Ranges that may reach the control plane; empty: through IAM only.")


class Cloud(_Section):
    """The account and cluster that GKE and AKS environments create."""

    project: str | None = Field(None, description="Google Cloud project (`gke`).")
    subscription: str | None = Field(None, description="Azure subscription (`aks`).")
    release_channel: Literal["rapid", "regular", "stable"] = Field("regular", description="How early new Kubernetes versions come.")
    kubernetes_version: str | None = Field(None, description="Kubernetes version where it must be fixed.")
    system_machine_type: str | None = Field(None, description="Machine type of the nodes for everything but models.")
    system_nodes: Replicas = Field(default_factory=lambda: Replicas(min=1, max=3), description="Bounds of that pool.")
    deletion_protection: Flag = Field(True, description="Refuse to delete cluster, bucket and registry.")
    network: Network = Field(default_factory=Network, description="Addresses.")
    maintenance_start: str = Field("03:00", pattern=r"^\d\d:\d\d$", description="Start of the daily maintenance window, UTC.")
    huge_pages: NonNegative = Field(0, description="2 MiB huge pages per GPU node (`gke`; AKS has transparent huge pages only).")


class Waiver(_Section):
    """One accepted finding."""

    rule: str = Field(description="Identifier of the rule.")
    path: str = Field("*", description="Resource or path it holds for; `*`: all.")
    reason: str = Field(min_length=10, description="Why it is accepted.")
    owner: str = Field(description="Who answers for it.")
    expires: str = Field(pattern=r"^\d{4}-\d\d-\d\d$", description="Last day, YYYY-MM-DD.")


class Environment(_Section):
    """One environment: everything that `up`, `plan` and `promote` need to know."""

    platform: Platform = Field(description="Where it runs.")
    layer: Layer = Field(
        Layer.ALL, description="Part that this stack holds: `all`, or `platform` with one `slot` stack per slot beside it."
    )
    slot: SlotName | None = Field(None, description="The slot of a `layer: slot` stack.")
    production: Flag = Field(False, description="Stricter rules: digests, protection, a floor of replicas.")
    namespace: Name = Field("inferstack", description="Kubernetes namespace of the slots.")
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
    monitoring: Monitoring = Field(default_factory=Monitoring, description="Monitoring.")
    cloud: Cloud = Field(default_factory=Cloud, description="Account and cluster (`gke`, `aks`).")
    waivers: tuple[Waiver, ...] = Field((), description="Accepted findings.")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an environment file."""

    path: str
    value: Any
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        shown = "" if self.value is _MISSING else f" is {_short(self.value)}"
        hint = f"; did you mean `{self.nearest}`?" if self.nearest else ""
        return f"{self.path}{shown}: expected {self.expected}{hint}"

    def to_json(self) -> dict[str, Any]:
        value = None if self.value is _MISSING else self.value
        return {"path": self.path, "value": value, "expected": self.expected, "nearest": self.nearest}


class InvalidEnvironment(ValueError):
    """An environment cannot be used; ``problems`` holds everything that is wrong with it."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {problem}" for problem in self.problems))


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def parse_environment(raw: object, source: str = "environment") -> Environment:
    """Validate ``raw`` (the parsed YAML object) and return the environment.

    Raises InvalidEnvironment with every problem at once: wrong leaves are set aside and the combinations are
    checked on what is left, so that one bad value does not hide the next.
    """
    if not isinstance(raw, Mapping):
        raise InvalidEnvironment(source, [Problem("environment", raw, "a mapping of settings")])
    problems: dict[str, Problem] = {}
    data: Any = _plain(raw)
    while True:
        try:
            environment = Environment.model_validate(data)
            break
        except ValidationError as error:
            before = len(problems)
            details = error.errors()
            for detail in reversed(details):  # from the end, so that list positions stay true
                location = detail["loc"]
                if detail["type"] == "too_short" and any(
                    len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in details
                ):
                    continue  # the list is short only because its items are wrong
                problems.setdefault(_path(detail["loc"]), _to_problem(detail))
                _set_aside(data, tuple(detail["loc"]))
            if len(problems) == before:  # nothing new was learnt: no placeholder mends this value
                raise InvalidEnvironment(source, _sorted(problems)) from None
    wrong = dict(problems)
    for problem in check_combinations(environment):
        if problem.path not in wrong and not ("platform" in wrong and "platform is" in problem.expected):
            problems.setdefault(problem.path, problem)
    if problems:
        raise InvalidEnvironment(source, _sorted(problems))
    return environment


def load_environment(stacks: Path, name: str) -> Environment:
    """Read ``stacks/Pulumi.<name>.yaml`` and return its environment; raises InvalidEnvironment."""
    file = stacks / f"Pulumi.{name}.yaml"
    if not file.is_file():
        names = environment_names(stacks)
        close = difflib.get_close_matches(name, names, n=1)
        raise InvalidEnvironment(
            str(file), [Problem("environment", name, f"one of {', '.join(names) or '(none found)'}", close[0] if close else None)]
        )
    return parse_environment(read_raw(file), str(file))


def environment_names(stacks: Path) -> list[str]:
    """Names of the environments that have a file in ``stacks``."""
    return sorted(file.name.removeprefix("Pulumi.").removesuffix(".yaml") for file in stacks.glob("Pulumi.*.yaml"))


def lay_over(base: Any, changes: Any) -> Any:
    """``base`` with the mappings of ``changes`` merged in at any depth; every other value of ``changes`` replaces that of ``base``."""
    if not (isinstance(base, Mapping) and isinstance(changes, Mapping)):
        return changes
    return {**base, **{key: lay_over(base[key], value) if key in base else value for key, value in changes.items()}}


def read_raw(file: Path) -> Any:
    """The environment object of a stack file, laid over that of the environment it names as its base; raises InvalidEnvironment."""
    config = read_config(file)
    if not any(key in config for key in (CONFIG_KEY, BASE_KEY)):
        raise InvalidEnvironment(str(file), [Problem(f"config.{CONFIG_KEY}", _MISSING, "an environment object")])
    return resolve_config(file.parent, config)


def resolve_config(stacks: Path, config: Mapping[str, Any]) -> Any:
    """The environment object of a stack's configuration: base, own object and slot settings laid one over the other."""
    found = config.get(CONFIG_KEY, {})
    if (base := config.get(BASE_KEY)) is not None:
        file = stacks / f"Pulumi.{base}.yaml"
        outer = read_config(file) if file.is_file() else {}
        if CONFIG_KEY not in outer:
            raise InvalidEnvironment(str(file), [Problem(f"config.{BASE_KEY}", base, "an environment with an object of its own")])
        found = lay_over(outer[CONFIG_KEY], found)
    return lay_over(found, config[SLOT_KEY]) if config.get(SLOT_KEY) else found


def read_config(file: Path) -> Mapping[str, Any]:
    """The configuration of a stack file; empty where it has none. Raises InvalidEnvironment for what is no YAML."""
    try:
        document = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidEnvironment(str(file), [Problem("file", _MISSING, f"valid YAML: {error}")]) from None
    config = document.get("config") if isinstance(document, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def check_combinations(environment: Environment) -> list[Problem]:
    """Combinations of valid values that cannot work, as problems; pure."""
    return list(_combinations(environment))


def _combinations(e: Environment) -> Iterator[Problem]:
    if e.platform in (Platform.GKE, Platform.AKS) and not e.region:
        yield Problem("region", _MISSING, f"a region, because platform is {e.platform}")
    if e.platform is Platform.GKE and not e.cloud.project:
        yield Problem("cloud.project", _MISSING, "the Google Cloud project, because platform is gke")
    if e.layer is Layer.SLOT and e.slot is None:
        yield Problem("slot", _MISSING, "blue or green, because layer is slot")
    if e.layer is not Layer.SLOT and e.slot is not None:
        yield Problem("slot", str(e.slot), f"nothing, because layer is {e.layer}")
    if e.platform is Platform.LOCAL and e.gpu is not None:
        yield Problem("gpu", e.gpu.accelerator, "nothing: a local environment starts no GPU nodes")
    if e.platform is Platform.LOCAL and e.layer is not Layer.ALL:
        yield Problem("layer", str(e.layer), "all, because platform is local")
    if e.platform is Platform.LOCAL and e.cache.backend in ("cluster", "managed"):
        yield Problem("cache.backend", e.cache.backend, "process, external or none, because platform is local")
    if e.platform is Platform.LOCAL and e.engine.kind not in ("native", "transformers"):
        yield Problem("engine.kind", e.engine.kind, "native or transformers, because platform is local")
    if e.platform is not Platform.LOCAL and e.cache.backend == "process":
        yield Problem("cache.backend", "process", f"cluster, managed, external or none, because platform is {e.platform}")
    if e.platform is Platform.KUBERNETES and e.cache.backend == "managed":
        yield Problem("cache.backend", "managed", "cluster, external or none: an existing cluster has no managed cache")
    if e.cache.backend == "cluster" and e.cache.high_availability:
        yield Problem(
            "cache.high_availability", True, "false, because cache.backend is cluster (one disposable replica); managed has a standby"
        )
    if e.cache.backend == "external" and not e.cache.url_secret:
        yield Problem("cache.url_secret", _MISSING, "a secret's name, because cache.backend is external")
    if e.platform is not Platform.LOCAL and not e.engine.image:
        yield Problem("engine.image", _MISSING, f"REPOSITORY@sha256:DIGEST, because platform is {e.platform}")
    if e.slots.replicas.min > e.slots.replicas.max:
        yield Problem("slots.replicas.min", e.slots.replicas.min, f"at most slots.replicas.max ({e.slots.replicas.max})")
    if e.slots.idle_replicas > e.slots.replicas.max:
        yield Problem("slots.idle_replicas", e.slots.idle_replicas, f"at most slots.replicas.max ({e.slots.replicas.max})")
    if e.cloud.huge_pages and e.platform is not Platform.GKE:
        yield Problem(
            "cloud.huge_pages", e.cloud.huge_pages, f"0, because platform is {e.platform} (only gke reserves huge pages by itself)"
        )
    if e.gpu and e.platform is not Platform.GKE:
        for key in ("local_ssd", "image_disk", "compact_placement"):
            if value := getattr(e.gpu, key):
                yield Problem(f"gpu.{key}", value, f"nothing, because platform is {e.platform} (gke only)")
    if e.gpu and e.gpu.min_nodes > e.gpu.max_nodes:
        yield Problem("gpu.min_nodes", e.gpu.min_nodes, f"at most gpu.max_nodes ({e.gpu.max_nodes})")
    if e.gpu and e.gpu.capacity == "reservation" and not e.gpu.reservation:
        yield Problem("gpu.reservation", _MISSING, "a reservation's name, because gpu.capacity is reservation")
    if e.engine.kind != "vllm":
        for key in ("tensor_parallel", "pipeline_parallel"):
            if getattr(e.engine, key) > 1:
                yield Problem(f"engine.{key}", getattr(e.engine, key), f"1, because engine.kind is {e.engine.kind} (vllm splits a model)")
    if e.drain.pre_stop_seconds + e.drain.seconds >= e.drain.grace_seconds:
        yield Problem(
            "drain.grace_seconds",
            e.drain.grace_seconds,
            f"more than pre_stop_seconds + seconds ({e.drain.pre_stop_seconds + e.drain.seconds:g})",
        )
    if e.promotion.steps and e.promotion.steps[-1] != 100:
        yield Problem("promotion.steps", list(e.promotion.steps), "weights that end with 100")
    if list(e.promotion.steps) != sorted(set(e.promotion.steps)):
        yield Problem("promotion.steps", list(e.promotion.steps), "weights that rise")
    if not e.promotion.steps:
        yield Problem("promotion.steps", [], "at least [100]")
    names = [model.name for model in e.models]
    for index, model in enumerate(e.models):
        if model.name in names[:index]:
            yield Problem(f"models[{index}].name", model.name, "a name that no other model has")
    if e.platform is Platform.KUBERNETES and not (e.gateway.existing or e.gateway.class_name):
        yield Problem("gateway.class_name", _MISSING, "a GatewayClass of the cluster, or gateway.existing, because platform is kubernetes")
    if e.engine.kind in ("vllm", "sglang", "llamacpp", "openai"):
        for tier in sorted({model.tier for model in e.models}):
            served = [model.name for model in e.models if model.tier == tier]
            if len(served) > 1:
                yield Problem("models", served, f"one model per tier, because an engine image of kind {e.engine.kind} serves one")
    if e.slots.quality and len({model.tier for model in e.models}) < 2:
        yield Problem("slots.quality", "set", "nothing: the models are all of one tier, which slots.replicas holds for")
    if e.slots.quality and e.slots.quality.replicas.min > e.slots.quality.replicas.max:
        yield Problem("slots.quality.replicas.min", e.slots.quality.replicas.min, "at most slots.quality.replicas.max")
    if e.gateway.existing and e.gateway.class_name:
        yield Problem("gateway.class_name", e.gateway.class_name, "nothing, because gateway.existing names a Gateway")


def explain(key: str | None = None) -> list[tuple[str, str, str, str]]:
    """Rows (path, type, default, description) of the reference, all or those at and below ``key``.

    Raises InvalidEnvironment when ``key`` names nothing.
    """
    rows = list(_rows(Environment, ""))
    if key is None:
        return rows
    chosen = [row for row in rows if row[0] == key or row[0].startswith((f"{key}.", f"{key}[]"))]
    if not chosen:
        close = difflib.get_close_matches(key, [row[0] for row in rows], n=1)
        raise InvalidEnvironment("environment explain", [Problem("KEY", key, "a key of the reference", close[0] if close else None)])
    return chosen


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        inner, suffix = _inner_section(field.annotation)
        path = f"{prefix}{name}"
        yield path, _type_name(field), _default(field), field.description or ""
        if inner is not None:
            yield from _rows(inner, f"{path}{suffix}.")


def _inner_section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    suffix = {tuple: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        inner, more = _inner_section(argument)
        if inner is not None:
            return inner, suffix + more
    return None, ""


def _type_name(field: FieldInfo) -> str:
    text = _annotation_name(field.annotation)
    bounds = [f"{sign} {getattr(item, word):g}" for item in field.metadata for word, sign in _BOUNDS.items() if hasattr(item, word)]
    return f"{text} ({', '.join(bounds)})" if bounds else text


_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _annotation_name(annotation: Any) -> str:
    if isinstance(annotation, type):
        if issubclass(annotation, StrEnum):
            return " | ".join(annotation)
        if issubclass(annotation, BaseModel):
            return "section"
        return {"str": "text", "int": "integer", "float": "number", "bool": "true | false", "NoneType": "unset"}.get(
            annotation.__name__, annotation.__name__
        )
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin is Annotated:
        return _annotation_name(arguments[0])
    if origin is tuple:
        return f"list of {_annotation_name(arguments[0])}"
    if origin is dict:
        return f"mapping of name to {_annotation_name(arguments[1])}"
    return " | ".join(_annotation_name(argument) for argument in arguments)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return ", ".join(value) if value else "none"
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return {"None": "unset", "True": "true", "False": "false"}.get(str(value), str(value))


def _to_problem(detail: Any) -> Problem:
    location = tuple(detail["loc"])
    path, kind = _path(location), detail["type"]
    if kind == "extra_forbidden":
        return Problem(path, detail["input"], "no such key", _nearest_key(location))
    if kind == "missing":
        return Problem(path, _MISSING, "a value (required)")
    context = detail.get("ctx", {})
    if kind in ("literal_error", "enum"):
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        close = difflib.get_close_matches(str(detail["input"]), options, n=1, cutoff=0.5)
        return Problem(path, detail["input"], f"one of {', '.join(options)}", close[0] if close else None)
    if kind == "string_pattern_mismatch":
        return Problem(path, detail["input"], f"text that matches {context.get('pattern')}")
    message = str(detail["msg"]).removeprefix("Input should be ")
    return Problem(path, detail["input"], message[0].lower() + message[1:])


def _nearest_key(location: tuple[str | int, ...]) -> str | None:
    """The key that was probably meant: a similar one of the same section, else the same one of another section."""
    section: type[BaseModel] = Environment
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _inner_section(section.model_fields[part].annotation)[0] or section
    word = str(location[-1])
    close = difflib.get_close_matches(word, list(section.model_fields), n=1, cutoff=0.5)
    elsewhere = [path for path, *_ in _rows(Environment, "") if path.rpartition(".")[2] == word]
    return next(iter(close + elsewhere), None)


_PLACEHOLDERS: dict[str, Any] = {
    "platform": "kubernetes",
    "models": [{"name": "placeholder", "source": "file://placeholder"}],
    "name": "placeholder",
    "source": "file://placeholder",
    "accelerator": "placeholder",
    "requests_per_minute": 1,
    "tokens_per_minute": 1,
    "rule": "placeholder",
    "reason": "placeholder",
    "owner": "placeholder",
    "expires": "2000-01-01",
}


def _set_aside(data: Any, location: tuple[str | int, ...]) -> None:
    """Take the wrong value at ``location`` out of ``data``; a required one is replaced by a placeholder."""
    for part in location[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return
    last = location[-1]
    if isinstance(data, dict) and last in _PLACEHOLDERS and data.get(last) != _PLACEHOLDERS[str(last)]:
        data[last] = _PLACEHOLDERS[str(last)]
    else:
        try:
            del data[last]
        except (KeyError, IndexError, TypeError):
            return


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _sorted(problems: Mapping[str, Problem]) -> list[Problem]:
    return sorted(problems.values(), key=lambda problem: problem.path)


def _path(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "environment"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, because YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands here a second time", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
