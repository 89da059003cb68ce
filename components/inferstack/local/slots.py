"""A slot's runtime configuration, from the environment."""

import re
from pathlib import Path
from typing import Any

from inferstack.environment import Environment
from inferstack.local.gateway import Ports

_UNITS = {"m": 1e-3, "k": 1e3, "Ki": 2**10, "M": 1e6, "Mi": 2**20, "G": 1e9, "Gi": 2**30, "T": 1e12, "Ti": 2**40}


def quantity(text: str) -> int:
    """A Kubernetes quantity (`512Mi`, `1.5G`) as a whole number of its base unit."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?", text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 512Mi")
    return int(float(match[1]) * _UNITS.get(match[2] or "", 1))


def runtime_config(
    name: str,
    environment: Environment,
    slot: str,
    ports: Ports,
    *,
    generation: int = 1,
    keys_file: Path,
    cache_url: str | None,
) -> dict[str, Any]:
    """The `RuntimeConfig` object of `slot`, as the environment file describes it."""
    e = environment
    return {
        "listen": {"host": "127.0.0.1", "port": ports.slots[slot]},
        "metrics": {"host": "127.0.0.1", "port": ports.slot_metrics[slot]},
        "identity": {"environment": name, "slot": slot, "generation": generation},
        "models": [
            {"name": m.name, "source": m.source, "digest": m.digest, "quantization": m.quantization, "context": m.context} for m in e.models
        ],
        "engine": {
            "kind": e.engine.kind,
            "threads": e.engine.threads,
            "max_sequences": e.engine.max_sequences,
            "max_batch_tokens": e.engine.max_batch_tokens,
            "max_queue": e.engine.max_queue,
            "kv_cache_bytes": quantity(e.engine.kv_cache),
        },
        "access": {
            "keys_file": str(keys_file),
            "tiers": {name: tier.model_dump() for name, tier in e.access.tiers.items()},
            "jwt": None if e.access.jwks_url is None else {"jwks_url": e.access.jwks_url, "audience": e.access.jwt_audience},
        },
        "cache": {"url": cache_url, "ttl_seconds": e.cache.ttl_seconds, "semantic": e.cache.semantic.model_dump()},
        "drain": {"seconds": e.drain.seconds},
        "weight_cache": None,
        "otlp_endpoint": e.monitoring.otlp_endpoint,
    }
