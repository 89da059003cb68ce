"""A slot's runtime configuration, from the environment."""

from collections.abc import Mapping
from typing import Any

from inferstack.environment import Environment, SlotName
from inferstack.environment.quantity import quantity
from inferstack.local import cache
from inferstack.local.gateway import Ports
from inferstack.local.layout import Layout
from inferstack.local.monitoring import ALERTMANAGER


def runtime_config(layout: Layout, environment: Environment, slot: str, ports: Ports, *, generation: int = 1) -> dict[str, Any]:
    """The `RuntimeConfig` object of `slot`, as the environment has it."""
    e = environment
    config = {
        "identity": {"environment": layout.name, "slot": str(slot), "generation": generation},
        "models": [
            {"name": m.name, "source": m.source, "digest": m.digest, "quantization": m.quantization, "context": m.context} for m in e.models
        ],
        "engine": {
            "kind": e.engine.kind,
            "threads": e.engine.threads,
            "max_sequences": e.engine.max_sequences,
            "max_batch_tokens": e.engine.max_batch_tokens,
            "max_queue": e.engine.max_queue,
            "kv_cache_bytes": int(quantity(e.engine.kv_cache)),
            **e.engine.overrides,
        },
        "access": {
            "tiers": {name: tier.model_dump() for name, tier in e.access.tiers.items()},
            "jwt": None if e.access.jwks_url is None else {"jwks_url": e.access.jwks_url, "audience": e.access.jwt_audience},
        },
        "cache": {"ttl_seconds": e.cache.ttl_seconds, "semantic": e.cache.semantic.model_dump()},
        "drain": {"seconds": e.drain.seconds},
        "weight_cache": None,
        "otlp_endpoint": e.monitoring.otlp_endpoint,
    }
    return on_machine(config, layout, slot, ports)


def on_machine(config: Mapping[str, Any], layout: Layout, slot: str, ports: Ports) -> dict[str, Any]:
    """`config` with everything that is this machine's and not the version's: ports, paths, the other parts' addresses."""
    alertmanager = ports.monitors.get(ALERTMANAGER)
    return {
        **config,
        "listen": {"host": "127.0.0.1", "port": ports.slots[slot]},
        "metrics": {"host": "127.0.0.1", "port": ports.slot_metrics[slot]},
        "identity": {**config["identity"], "environment": layout.name, "slot": str(slot)},
        "access": {**config["access"], "keys_file": str(layout.keys)},
        "cache": {**config["cache"], "url": cache.url(layout, ports.cache)},
        "batches": {"url": f"sqlite:///{layout.batches(slot)}"},
        "alertmanager_url": None if alertmanager is None else f"http://127.0.0.1:{alertmanager}",
        "console": {
            "slots": {
                str(name): {
                    "url": f"http://127.0.0.1:{ports.slots[name]}",
                    "metrics_url": f"http://127.0.0.1:{ports.slot_metrics[name]}/metrics",
                }
                for name in SlotName
            },
            "routes_file": str(layout.routes),
            "journal_file": str(layout.journal),
        },
    }
