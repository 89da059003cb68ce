"""The words that settings are made of: enumerations, and numbers and texts with their bounds."""

from enum import StrEnum
from typing import Annotated, Literal

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
Positive = Annotated[int, Field(gt=0, strict=True)]
NonNegative = Annotated[int, Field(ge=0, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Usd = Annotated[float, Field(ge=0)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
