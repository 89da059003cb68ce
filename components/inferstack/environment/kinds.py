"""The words that settings are made of: enumerations, and numbers and texts with their bounds."""

from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One section of an environment; unknown keys are refused, and nothing changes after parsing."""

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
ENGINE_IMAGES: tuple[EngineKind, ...] = ("vllm", "sglang", "llamacpp", "openai")
"""Engines whose image is not this kit's: they know nothing of its keys, limits and caches."""
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
Port = Annotated[int, Field(ge=1024, lt=65536, strict=True)]
"""A port that a process without rights may listen on."""
Flag = Annotated[bool, Field(strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1)]
_MORE_THAN_ZERO = r"(0*[1-9][0-9]*(\.[0-9]+)?|0+\.0*[1-9][0-9]*)"
Seconds = Annotated[float, Field(ge=0)]
Usd = Annotated[float, Field(ge=0)]
Cores = Annotated[str, Field(pattern=rf"^{_MORE_THAN_ZERO}m?$")]
Memory = Annotated[str, Field(pattern=rf"^{_MORE_THAN_ZERO}(Ki|M|Mi|G|Gi|T|Ti)$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Source = Annotated[str, Field(pattern=r"^((package|file|hf)://.+|(gs|abfss|s3)://[^/].*)$")]
AddressRange = Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+\.\d+/\d+$")]
HostName = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+$", max_length=253)]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^/\s]+")]
GatewayPath = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9.-]+$")]
Subscription = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
DiskImage = Annotated[str, Field(pattern=r"^(projects/[^/\s]+/)?global/images/[^/\s]+$")]
LocalDisks = Annotated[int, Field(ge=0, le=32, strict=True)]
"""Local SSDs of a machine; a3-ultragpu-8g has the most, 32."""
Argument = Annotated[str, Field(min_length=1)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Project = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9.:]*[a-z0-9])?$")]
_WORDS: dict[Any, str] = {
    Cores: "an amount of CPU above zero: 500m, 2 or 1.5",
    Memory: "an amount of memory above zero, with its unit: 512Mi, 24Gi or 24G",
    Namespace: "a name of lower-case letters, digits and `-`, at most 63",
    HostName: "a host name such as llm.example.com, without scheme, port and path",
    HttpUrl: "an address that begins with https:// or http://",
    GatewayPath: "NAMESPACE/NAME of a Gateway",
    Subscription: "a subscription's id, as `az account show --query id` prints it",
    Name: "a name of lower-case letters, digits, `-` and `.`, at most 63",
    Digest: "sha256: and 64 hexadecimal digits",
    Source: "package://DIST, file://PATH, hf://ORG/REPO, gs://BUCKET/PATH, abfss:// or s3://",
    AddressRange: "an address range such as 10.0.0.0/16",
    TimeOfDay: "a time of day, HH:MM in UTC",
    Day: "a day, YYYY-MM-DD",
    DiskImage: "global/images/NAME or projects/PROJECT/global/images/NAME",
    Project: "a project's id: lower-case letters, digits and `-`, a letter first",
}
PATTERNS = {item.pattern: text for kind, text in _WORDS.items() for item in get_args(kind)[1].metadata if getattr(item, "pattern", None)}
"""What each pattern asks for, in words."""
