"""The words that settings are made of: enumerations, and numbers and texts with their bounds."""

from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """One section of an environment; unknown keys are refused, and nothing changes after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _a_flag_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Pydantic would take `true` for 1 where a number with a fraction stands."""
        if isinstance(value, bool) and "float" in str(cls.model_fields[str(field.field_name)].annotation):
            raise PydanticCustomError("float_type", "a number")
        return value


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
ENGINE_IMAGES: tuple[EngineKind, ...] = ("vllm", "sglang", "llamacpp", "openai")
"""Engines whose image is not this kit's: they know nothing of its keys, limits and caches."""
TENSOR_PARALLEL: tuple[EngineKind, ...] = ("vllm", "sglang")
"""Engines that share each layer among the GPUs of a pod."""
UNMEASURED: tuple[EngineKind, ...] = ("llamacpp", "openai")
"""Engine images whose metrics hold neither requests by status nor times of tokens, as far as is known: gates cannot judge them."""
LARGEST = 2**31 - 1
"""What the clouds and Kubernetes count to; no bound that a reader needs to see."""
ALB_CLASS = "azure-alb-external"
"""GatewayClass of Application Gateway for Containers."""
METRICS_PORT = 9090
"""Where this kit's own engines serve metrics on a cluster; the gateway never routes there."""
Positive = Annotated[int, Field(gt=0, le=LARGEST, strict=True)]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST, strict=True)]
Nodes = Annotated[int, Field(ge=0, le=1000, strict=True)]
"""Nodes of a pool; GKE and AKS both end at 1,000."""
Replica = Annotated[int, Field(ge=0, le=5000, strict=True)]
"""Replicas of a slot; Kubernetes is made for 5,000 nodes (considerations for large clusters)."""
Threads = Annotated[int, Field(gt=0, le=4096, strict=True)]
Port = Annotated[int, Field(ge=1024, lt=65536, strict=True)]
"""A port that a process without rights may listen on."""
Flag = Annotated[bool, Field(strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1)]
_MORE_THAN_ZERO = r"(0*[1-9][0-9]*(\.[0-9]+)?|0+\.0*[1-9][0-9]*)"
Seconds = Annotated[float, Field(ge=0, le=2_592_000)]
"""At most 30 days: a larger number is one of another unit."""
Span = Annotated[float, Field(ge=0)]
"""A time in seconds with a bound of its own."""
Count = Annotated[int, Field(ge=0, strict=True)]
"""A number of things with a bound of its own."""
Usd = Annotated[float, Field(ge=0)]
Cores = Annotated[str, Field(pattern=rf"^{_MORE_THAN_ZERO}m?$")]
Memory = Annotated[str, Field(pattern=rf"^{_MORE_THAN_ZERO}(Ki|M|Mi|G|Gi|T|Ti)$")]
_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""A label of DNS, of which Kubernetes makes its names."""
Name = Annotated[str, Field(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=63)]
Namespace = Annotated[str, Field(pattern=f"^{_LABEL}$", max_length=63)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_SOURCES = (
    "package://[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
    r"file://[^\x00-\x1f]+",
    r"hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+(@[^\s@/]+)?(/[^\s]+)?",
    r"(gs|s3|abfss)://[a-z0-9][a-z0-9._-]*(@[a-z0-9.-]+)?(/[^\x00-\x1f]*)?",
)
Source = Annotated[str, Field(pattern=f"^({'|'.join(_SOURCES)})$")]
AddressRange = Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+\.\d+/\d+$")]
HostName = Annotated[str, Field(pattern=rf"^(\*\.)?{_LABEL}(\.{_LABEL})+$", max_length=253)]
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HttpUrl = Annotated[str, Field(pattern=rf"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:{_PORT})?([/?][^\s]*)?$")]
GatewayPath = Annotated[str, Field(pattern=rf"^{_LABEL}/{_LABEL}(\.{_LABEL})*$")]
Subscription = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
EntraGroup = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$")]
DiskImage = Annotated[str, Field(pattern=r"^(projects/[^/\s]+/)?global/images/[^/\s]+$")]
DiskSize = Annotated[int, Field(ge=30, le=65_536, strict=True)]
"""Boot disk in GB: AKS makes none below 30; GKE's images want no less than 12."""
LocalDisks = Annotated[int, Field(ge=0, le=32, strict=True)]
"""Local SSDs of a machine; a3-ultragpu-8g has the most, 32."""
Argument = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f]+$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=256)]
HeaderValue = Annotated[str, Field(pattern=r"^[!-~]([ -~]*[!-~])?$", max_length=4096)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Project = Annotated[str, Field(pattern=r"^([a-z][-a-z0-9.]*:)?[a-z]([-a-z0-9]{0,28}[a-z0-9])?$")]
_WORDS: dict[Any, str] = {
    Cores: "an amount of CPU above zero: 500m, 2 or 1.5",
    Memory: "an amount of memory above zero, with its unit: 512Mi, 24Gi or 24G",
    Namespace: "a name of lower-case letters, digits and `-`, at most 63",
    HostName: "a host name such as llm.example.com, without scheme, port and path",
    HttpUrl: "an address that begins with https:// or http://, without spaces, a port in it below 65536",
    GatewayPath: "NAMESPACE/NAME of a Gateway",
    Subscription: "a subscription's id, as `az account show --query id` prints it",
    EntraGroup: "a group's object id, as `az ad group show --query id` prints it",
    Name: "a name of lower-case letters, digits, `-` and `.`, at most 63",
    Digest: "sha256: and 64 hexadecimal digits",
    Source: "package://DIST, file://PATH, hf://ORG/REPO, gs://BUCKET/PATH, abfss:// or s3://",
    AddressRange: "an address range such as 10.0.0.0/16",
    Argument: "text on one line",
    HeaderName: "a header's name: letters, digits and `-`, no space",
    HeaderValue: "a header's value: visible characters of ASCII, no space at its ends",
    TimeOfDay: "a time of day, HH:MM in UTC",
    Day: "a day, YYYY-MM-DD",
    DiskImage: "global/images/NAME or projects/PROJECT/global/images/NAME",
    Project: "a project's id: at most 30 lower-case letters, digits and `-`, a letter first",
}
PATTERNS = {item.pattern: text for kind, text in _WORDS.items() for item in get_args(kind)[1].metadata if getattr(item, "pattern", None)}
"""What each pattern asks for, in words."""
