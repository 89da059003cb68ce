"""The runtime's configuration file for one group of replicas (see docs/design/001-contracts.md)."""

import hashlib
import json
from typing import Any

from inferstack.cluster.names import CACHE
from inferstack.environment import METRICS_PORT, Environment, Model, SlotName
from inferstack.environment.quantity import quantity
from inferstack.serving.manifests.engines import CACHE_PATH
from inferstack.serving.manifests.groups import ReplicaGroup

KEYS_PATH = "/etc/inferstack/keys"
CACHE_SECRET_PATH = "/etc/inferstack/cache"  # noqa: S105 - a folder


def runtime_config(environment: Environment, slot: SlotName, group: ReplicaGroup, *, name: str, generation: int) -> dict[str, Any]:
    """The configuration object; `name` is the environment's, `generation` the promotion's."""
    engine, access = environment.engine, environment.access
    return {
        "listen": {"host": "0.0.0.0", "port": engine.port},
        "metrics": {"host": "0.0.0.0", "port": METRICS_PORT},
        "identity": {"environment": name, "slot": str(slot), "generation": generation},
        "models": [
            {
                "name": model.name,
                "source": model.source,
                "digest": model.digest,
                "quantization": model.quantization,
                "context": model.context,
                **_also(environment, group, model),
            }
            for model in group.models
        ],
        "engine": {
            "kind": engine.kind,
            "threads": engine.threads,
            "max_sequences": engine.max_sequences,
            "max_batch_tokens": engine.max_batch_tokens,
            "max_queue": engine.max_queue,
            "kv_cache_bytes": int(quantity(engine.kv_cache)),
            **engine.overrides,
        },
        "access": {
            "keys_file": f"{KEYS_PATH}/keys.json",
            "tiers": {key: tier.model_dump() for key, tier in access.tiers.items()},
            "jwt": {"jwks_url": access.jwks_url, "audience": access.jwt_audience} if access.jwks_url else None,
        },
        "cache": _cache(environment),
        "drain": {"seconds": environment.drain.seconds},
        "weight_cache": CACHE_PATH,
        "otlp_endpoint": environment.monitoring.otlp_endpoint,
    }


def _also(environment: Environment, group: ReplicaGroup, model: Model) -> dict[str, list[str]]:
    """Names of the other tier's models, to which the group's first model answers too: a request that names no tier may come to either."""
    others = [other.name for other in environment.models if other not in group.models]
    return {"also": others} if others and model is group.models[0] else {}


def cache_secret(environment: Environment) -> str | None:
    """Secret whose key `url` holds the cache's address; None where the address is no secret."""
    return {"external": environment.cache.url_secret, "managed": CACHE}.get(environment.cache.backend)


def text(config: dict[str, Any]) -> str:
    """The file's content: the same bytes for the same configuration."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def digest(content: str) -> str:
    """Short hash of a configuration; as a pod annotation it starts new pods when the configuration changes."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _cache(environment: Environment) -> dict[str, Any]:
    cache = environment.cache
    found: dict[str, Any] = {"url": None, "ttl_seconds": cache.ttl_seconds, "semantic": cache.semantic.model_dump()}
    if cache.backend == "cluster":
        found["url"] = f"redis://{CACHE}.{environment.namespace}.svc:6379/0"
    if cache_secret(environment):
        found["url_file"] = f"{CACHE_SECRET_PATH}/url"
    if cache.identity:
        found["identity"] = cache.identity
    return found
