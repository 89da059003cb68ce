"""What runs: models, the two slots, the engine, its GPUs, and how replicas follow load."""

from typing import Annotated, Any, Literal

from pydantic import Field

from inferstack.environment.kinds import (
    Argument,
    Capacity,
    Cores,
    Count,
    Digest,
    DiskImage,
    DiskSize,
    EngineKind,
    Flag,
    Fraction,
    LocalDisks,
    Memory,
    Name,
    Nodes,
    NonNegative,
    Port,
    Positive,
    Quantization,
    Replica,
    Section,
    SlotName,
    Source,
    Span,
    Threads,
    Usd,
)


class Model(Section):
    """One model that the slots serve."""

    name: Name = Field(description="Name that clients send as `model`.")
    source: Source = Field(
        description="Where the weights come from: `package://DIST`, `file://PATH`, `hf://ORG/REPO`, `gs://`, `abfss://` or `s3://`.",
    )
    digest: Digest | None = Field(None, description="SHA-256 of the weights file; required to promote outside `local`.")
    quantization: Quantization = Field(
        "gguf",
        description="Weight format served: `none` and `bf16` keep bfloat16, to which F32 and F16 files are rounded; `gguf` is as shipped.",
    )
    context: Positive = Field(2048, description="Longest prompt plus answer, in tokens.")
    tier: Literal["fast", "quality"] = Field(
        "fast", description="`fast` (CPU, small model) or `quality` (GPU); chosen by `X-Tier` or by weight."
    )
    weight: Annotated[int, Field(ge=0, le=100, strict=True)] = Field(
        100,
        description="Share of requests without `X-Tier`, in percent, among the tiers; whichever model such a request names, the tier that "
        "it comes to answers.",
    )
    architecture: str | None = Field(None, description="Key of the planner's model catalogue; by default looked up by `name`.")
    config: dict[str, Any] | None = Field(
        None,
        description="`config.json` of a model that the catalogue does not have: a file, named from this one's folder.",
    )


class Resources(Section):
    """What one replica requests from the node."""

    cpu: Cores = Field("1", description="CPU request of a replica, in cores.")
    cpu_limit: Cores | None = Field(None, description="CPU limit; unset: no limit, so that a busy node's spare time can be used.")
    memory: Memory = Field("2Gi", description="Memory request and limit of a replica.")
    ephemeral_storage: Memory = Field("2Gi", description="Ephemeral storage request and limit of a replica.")


class Replicas(Section):
    """Replica bounds of a slot."""

    min: Replica = Field(1, description="Fewest replicas of the slot that has weight. 0 only where a front holds requests.")
    max: Replica = Field(1, gt=0, description="Most replicas; also the bound that cost and quota are checked against.")


ReplicaPrice = Annotated[
    Usd | None,
    Field(
        description="What one replica costs per hour, stated by who pays for its machine (`local`, `kubernetes`: no price table has it)."
    ),
]

ReplicaSpeed = Annotated[
    float | None,
    Field(
        gt=0,
        description="Output tokens per second of one replica under full load, as `inferstack bench throughput` measures them; with them "
        "the price of a million tokens is known. Unset: a published measurement, where one holds.",
    ),
]


class QualityTier(Section):
    """Replicas of the `quality` models, where an environment serves both tiers."""

    replicas: Replicas = Field(default_factory=Replicas, description="Bounds of the quality replicas of each slot.")
    resources: Resources = Field(default_factory=Resources, description="Requests and limits of one quality replica.")
    replica_hourly_usd: ReplicaPrice = None
    replica_tokens_per_second: ReplicaSpeed = None


class Slots(Section):
    """Both slots: bounds and resources of a replica."""

    replicas: Replicas = Field(default_factory=Replicas, description="Replica bounds of each slot.")
    idle_replicas: Replica = Field(
        1, description="Replicas of the slot without weight once the rollback window is over; during the window it keeps its full size."
    )
    resources: Resources = Field(default_factory=Resources, description="Requests and limits of one replica.")
    replica_hourly_usd: ReplicaPrice = None
    replica_tokens_per_second: ReplicaSpeed = None
    initial: SlotName = Field(SlotName.BLUE, description="The slot that gets all weight when an environment is first made.")
    quality: QualityTier | None = Field(
        None, description="Replicas of the `quality` models where both tiers are served; unset: as the `fast` ones."
    )


class Engine(Section):
    """What runs the model."""

    kind: EngineKind = Field(
        "native",
        description="`native` and `transformers` are this kit's image; `vllm`, `sglang`, `llamacpp` and `openai` are other images.",
    )
    image: str | None = Field(None, description="Image reference, `REPOSITORY@sha256:DIGEST`. Not used by `local`.")
    pull_secret: Name | None = Field(
        None, description="Secret with the registry's credentials, where the nodes' own identity may not pull the image."
    )
    hub_secret: Name | None = Field(
        None, description="Secret whose entry `token` opens models of Hugging Face that are not public (`hf://`)."
    )
    threads: Threads | None = Field(None, description="Compute threads; by default the cores that the process may use.")
    max_sequences: Count = Field(32, gt=0, le=65_536, description="Most sequences decoded together.")
    max_batch_tokens: Count = Field(512, gt=0, le=16_777_216, description="Token budget of one step, decode and prefill together.")
    max_queue: Count = Field(256, le=1_000_000, description="Requests that may wait; past that the answer is 429 with Retry-After.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where this kit's engines compute: `auto` takes a GPU where engine and machine have one; `cuda` demands one.",
    )
    cpu_fallback: Flag = Field(False, description="With `device: cuda`: serve on the CPU where there is no GPU, rather than not at all.")
    kv_cache: Memory = Field("512Mi", description="Upper bound of the KV cache of one replica.")
    kv_dtype: Literal["auto", "bf16", "int8", "fp32"] = Field(
        "auto", description="How keys and values are kept (native only); `auto`: fp32 for unquantized weights, else bf16; int8 halves it."
    )
    tensor_parallel: Positive = Field(1, description="GPUs that share each layer (vllm and sglang only).")
    pipeline_parallel: Positive = Field(1, description="Groups of layers on different nodes (vllm 0.12 or newer only).")
    arguments: tuple[Argument, ...] = Field((), description="More arguments for an engine image that is not this kit's.")
    port: Port = Field(8000, description="Port of the engine's HTTP API.")

    @property
    def overrides(self) -> dict[str, str | bool]:
        """The runtime's keys for where and in which type it computes, where they are not what they are anyway."""
        placed: dict[str, str | bool] = {} if self.device == "auto" else {"device": self.device, "cpu_fallback": self.cpu_fallback}
        return placed if self.kv_dtype == "auto" else {**placed, "kv_dtype": self.kv_dtype}


class GpuPool(Section):
    """GPU nodes that the slots run on."""

    accelerator: str = Field(description="GPU of the planner's catalogue, for instance `nvidia-l4`.")
    machine_type: str | None = Field(None, description="Machine type; by default the one whose nodes hold the replicas cheapest.")
    count: Positive = Field(1, description="GPUs of one replica.")
    capacity: Capacity = Field("on_demand", description="How the nodes are bought.")
    on_demand_floor: Nodes = Field(
        0, description="Nodes bought on demand beside a spot or flex-start pool, so that a stock-out never takes the last replica."
    )
    min_nodes: Nodes = Field(0, description="Fewest nodes of the pool.")
    max_nodes: Nodes = Field(
        2, gt=0, description="Most nodes of the pool; both slots during a promotion must fit, or the plan must be stepped."
    )
    zones: tuple[str, ...] = Field((), description="Zones of the pool; by default all of the region that have the accelerator.")
    reservation: str | None = Field(None, description="Name of the reservation or capacity reservation group (`capacity: reservation`).")
    quota: NonNegative | None = Field(
        None, description="GPUs of this kind that the account may have in the region, where known; checked by the plan."
    )
    driver: Literal["default", "latest", "disabled"] = Field("default", description="Driver that the cloud installs.")
    partition: str | None = Field(None, description="MIG profile, for instance `1g.10gb`.")
    sharing: NonNegative = Field(0, description="Clients that share one GPU by time slices; 0: none.")
    disk_gb: DiskSize | None = Field(
        None, description="Boot disk of a node in GB; unset: as the cloud gives it (`gke` 100, `aks` by machine)."
    )
    local_ssd: LocalDisks = Field(0, description="Local SSDs of a node that hold the ephemeral storage (`gke`).")
    image_disk: DiskImage | None = Field(
        None, description="Disk image with container images, attached to each node (`gke`): starts without a pull."
    )
    compact_placement: Flag = Field(False, description="Nodes close together, for models that span nodes (`gke`).")


class Scaling(Section):
    """How replicas follow load."""

    renderer: Literal["keda", "hpa", "autoscaler", "none"] = Field(
        "hpa",
        description="`keda` (ScaledObject), `hpa` (autoscaling/v2), `autoscaler` (this kit's own process, with `/api/v1/scaling`; "
        "this kit's engines only) or `none` (fixed at `replicas.min`).",
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
    up_window_seconds: Span = Field(60, le=3600, description="Quiet time before more replicas.")
    down_window_seconds: Span = Field(300, le=3600, description="Quiet time before fewer replicas.")
    prediction_horizon_minutes: Count = Field(
        0, le=1440, description="Forecast that may add replicas, never take any (`renderer: autoscaler`, `policy: queue`); 0: off."
    )
