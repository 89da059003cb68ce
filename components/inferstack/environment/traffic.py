"""What a request meets: keys and limits, the cache, the gateway, draining replicas, and a promotion with its gates."""

from typing import Annotated, Literal

from pydantic import Field

from inferstack.environment.kinds import (
    Count,
    Flag,
    GatewayPath,
    HeaderName,
    HeaderValue,
    HostName,
    HttpUrl,
    Memory,
    Name,
    Positive,
    Seconds,
    Section,
    Span,
    Usd,
)


class Tier(Section):
    """Limits of one class of API keys."""

    requests_per_minute: Positive = Field(description="Requests in any 60 s.")
    tokens_per_minute: Positive = Field(description="Prompt and answer tokens in any 60 s.")


def _default_tiers() -> dict[str, Tier]:
    return {
        "default": Tier(requests_per_minute=60, tokens_per_minute=100_000),
        "premium": Tier(requests_per_minute=1000, tokens_per_minute=1_000_000),
    }


class Access(Section):
    """Who may call the API, and how often."""

    keys_secret: Name = Field(
        "inferstack-keys",
        description="Secret with the hashed API keys and the server secret (`keys.json`); "
        "for an engine image, the one key that it checks (`api-key`).",
    )
    tiers: dict[str, Tier] = Field(default_factory=_default_tiers, description="Limits per tier of key.")
    jwks_url: HttpUrl | None = Field(None, description="Key set for bearer JWTs of `/chat/stream`.")
    jwt_audience: str | None = Field(None, description="Required `aud` of those JWTs.")


class SemanticCache(Section):
    """Answers for prompts that mean the same; off unless enabled."""

    enabled: Flag = Field(False, description="Turn the semantic tier on.")
    threshold: Annotated[float, Field(ge=0.9, le=1)] = Field(0.95, description="Cosine similarity from which a guarded hit counts.")


class Cache(Section):
    """Response cache and shared counters (Redis protocol)."""

    engine: Literal["valkey", "redis"] = Field("valkey", description="Server that is deployed.")
    backend: Literal["cluster", "managed", "external", "process", "none"] = Field(
        "cluster",
        description="`cluster`: in the cluster; `managed`: the cloud's service; `external`: `url_secret`; `process`: a child here; `none`. "
        "By default `process` on `local`, and `none` for an engine image, which does not use it.",
    )
    size: Memory = Field("1Gi", description="Memory of the cache.")
    high_availability: Flag = Field(False, description="A replica that takes over.")
    url_secret: Name | None = Field(None, description="Secret whose key `url` holds the address (`backend: external`).")
    identity: Literal["google", "azure"] | None = Field(
        None,
        description="Cloud whose token for the slots opens the cache, in place of a key (`managed`, `external`): "
        "Memorystore with IAM, Managed Redis with Entra.",
    )
    ttl_seconds: Positive = Field(300, description="Life of a cached answer where no route says otherwise.")
    semantic: SemanticCache = Field(default_factory=SemanticCache, description="The semantic tier.")


class Gateway(Section):
    """The way in."""

    class_name: Name | None = Field(None, description="GatewayClass; by default that of the platform.")
    existing: GatewayPath | None = Field(None, description="`NAMESPACE/NAME` of a Gateway that somebody else owns.")
    hostname: HostName | None = Field(None, description="Host name of the route.")
    tls_secret: Name | None = Field(None, description="Secret with the certificate; without it the listener is plain HTTP.")
    internal: Flag = Field(True, description="Reachable from the network of the cluster only.")
    port: Annotated[int, Field(gt=0, lt=65536, strict=True)] = Field(8080, description="Port of the listener (`local`: on 127.0.0.1).")
    timeout_seconds: Span = Field(600, le=86_400, description="Longest request; must cover the longest generation.")


class Drain(Section):
    """How a replica leaves without losing a request."""

    pre_stop_seconds: Seconds = Field(10, description="Time that a leaving replica goes on accepting, until every gateway knows.")
    seconds: Seconds = Field(60, description="Time that running streams get to finish.")
    grace_seconds: Seconds = Field(90, description="Time until the platform kills the process; more than the two above together.")


class Gates(Section):
    """What a new version must keep to be promoted. Compared with the live slot in the same window."""

    error_ratio: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="Highest share of failed requests.")
    ttft_p95_seconds: Seconds = Field(5, gt=0, description="Highest 95th percentile of time to first token.")
    inter_token_p95_seconds: Seconds = Field(1, gt=0, description="Highest 95th percentile of time between tokens.")
    slower_than_live: Annotated[float, Field(ge=1)] = Field(1.5, description="Most that both may be above the live slot's, as a factor.")
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Lowest top-1 agreement with the unquantized model; unset: not checked."
    )
    answers: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Lowest top-1 agreement with the live slot's answers to fixed texts, where both serve the same models."
    )
    usd_per_million_tokens: Usd | None = Field(
        None,
        gt=0,
        description="Highest price of a million tokens, where the price of a replica is known (`gke`, `aks`, or "
        "`slots.replica_hourly_usd`); unset: not checked.",
    )
    memory_growth: Annotated[float, Field(ge=0)] = Field(
        0.1, description="Most that a replica's resident memory may grow in a window, as a share."
    )
    cache_false_hit_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Highest share of checked semantic cache hits that were false."
    )
    min_requests: Count = Field(
        20, gt=0, le=1_000_000, description="Requests a window needs; fewer are filled up with synthetic ones, never passed silently."
    )
    window_seconds: Span = Field(30, gt=0, le=86_400, description="Length of a comparison window.")


class Header(Section):
    """Requests that carry this header, with just this value."""

    name: HeaderName = Field(description="Name of a request header that routes nothing yet; its case does not matter.")
    value: HeaderValue = Field(description="Its whole value, case and all.")


ROUTING_HEADERS = frozenset(("x-tier", "host", "authorization", "content-length", "content-type"))
"""Headers that mean something already, in small letters."""


class Promotion(Section):
    """How a new version gets the traffic."""

    strategy: Literal["blue_green", "canary", "rolling"] = Field(
        "blue_green", description="`blue_green`, `canary`: a whole second slot, then weights by `steps`; `rolling`: replica by replica."
    )
    steps: tuple[Annotated[int, Field(gt=0, le=100, strict=True)], ...] = Field(
        (10, 100),
        description="Weights of the new slot, in percent, ending with 100, with a check at each; `[100]` moves all at once. The first one "
        "bounds what a version costs that is bad for live traffic alone.",
    )
    header: Header | None = Field(
        None,
        description="First only requests with this header go to the new slot and are compared with the others, then `steps` follow; "
        "not with `rolling`.",
    )
    step_seconds: Seconds = Field(0, description="Time at each weight before its check.")
    ready_seconds: Seconds = Field(600, gt=0, description="Time that the idle slot gets to become ready.")
    settle_count: Count = Field(
        20, gt=0, le=10_000, description="Answers in a row that must carry the new slot's identity through the gateway."
    )
    rollback_window_seconds: Seconds = Field(900, description="Time that the previous slot stays warm.")
    gates: Gates = Field(default_factory=Gates, description="Checks before and after the weights move.")
