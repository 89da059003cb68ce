"""hybrid_smart to the letter, the targets of the others, the cost cap, and the back-test."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferstack_runtime.autoscaler.backtest import Replica, compare, run
from inferstack_runtime.autoscaler.hybrid_smart import HybridSmart, error_part, score, utilization
from inferstack_runtime.autoscaler.policies import CpuAndMemory, Fixed, QueueAndCache, Thresholds, every_policy
from inferstack_runtime.autoscaler.signals import Bounds, Sample, line, replica_cap
from inferstack_runtime.autoscaler.traces import BadTrace, Trace, generate, parse


def samples(count: int = 12, replicas: int = 2, **values: float) -> list[Sample]:
    return [Sample(15.0 * index, replicas, **values) for index in range(count)]


def test_utilization_and_errors_are_weighed_as_named() -> None:
    assert utilization(Sample(0, 1, cpu=1)) == pytest.approx(0.3)
    assert utilization(Sample(0, 1, memory=1)) == pytest.approx(0.3)
    assert utilization(Sample(0, 1, gpu=1)) == pytest.approx(0.4)
    assert [error_part(value) for value in (0, 0.01, 0.02, 0.05, 0.051)] == pytest.approx([0, 0, 0.4, 1, 1])


def test_the_score_is_the_weighted_sum_of_its_five_parts() -> None:
    rising = [Sample(15.0 * index, 1, cpu=index / 10, waiting=5, error_ratio=0.02) for index in range(10)]
    found = score(rising)
    assert found.utilization == pytest.approx(0.27)
    assert found.trend == pytest.approx(0.12)  # 0.15 to 0.27 over five points
    assert found.queue == pytest.approx(0.5)
    assert found.error == pytest.approx(0.4)
    assert found.prediction == pytest.approx(0.3)  # the line's next value
    assert found.value == pytest.approx(0.4 * 0.27 + 0.2 * 0.12 + 0.2 * 0.5 + 0.1 * 0.4 + 0.1 * 0.3)


def test_a_queue_counts_at_most_one() -> None:
    assert score(samples(waiting=1000)).queue == 1


def test_the_ceiling_keeps_hybrid_smart_from_firing_at_a_steady_overload() -> None:
    worst = samples(cpu=1, memory=1, gpu=1, waiting=100, error_ratio=1)
    assert score(worst).value == pytest.approx(0.8)
    assert HybridSmart().decide(worst, float("-inf")).action == "hold"
    assert QueueAndCache().decide(worst, float("-inf")).action == "scale_up"


def test_hybrid_smart_steps_by_one_and_keeps_quiet_for_300_seconds() -> None:
    worse = [Sample(15.0 * i, 2, cpu=i / 11, memory=i / 11, gpu=i / 11, waiting=50, error_ratio=0.5) for i in range(12)]
    assert HybridSmart().decide(worse, float("-inf")).target_replicas == 3
    assert HybridSmart().decide(worse, worse[-1].time - 299).action == "hold"
    assert HybridSmart().decide(worse, worse[-1].time - 300).target_replicas == 3
    idle = samples(replicas=5)
    decision = HybridSmart().decide(idle, float("-inf"))
    assert (decision.action, decision.target_replicas) == ("scale_down", 4)
    assert "score 0.00" in decision.reasoning
    assert decision.confidence == 1


def test_samples_older_than_three_windows_do_not_count() -> None:
    old = [Sample(float(i), 1, cpu=1, memory=1, gpu=1) for i in range(20)]
    assert score([*old, Sample(5000, 1)]).prediction == 0


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4, st.floats(0, 1e6)), min_size=1, max_size=30))
def test_the_score_stays_between_0_and_1(values: list[tuple[float, float, float, float, float]]) -> None:
    history = [Sample(15.0 * i, 1, c, m, g, w, error_ratio=e) for i, (c, m, g, e, w) in enumerate(values)]
    assert 0 <= score(history).value <= 1


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1000), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(0, 10),
    st.one_of(st.none(), st.integers(0, 20)),
)
def test_no_policy_leaves_its_bounds_or_concludes_from_missing_metrics(
    values: list[tuple[float, float, bool]], fewest: int, more: int, cap: int | None
) -> None:
    bounds = Bounds(fewest, fewest + more, cap)
    history = [Sample(15.0 * i, fewest, u, u, u, w, u, u, missing) for i, (u, w, missing) in enumerate(values)]
    for policy in every_policy(bounds, 4, 0.8, 0.7, 0.8, 300):
        target = policy.decide(history, float("-inf")).target_replicas
        assert fewest <= target <= max(fewest, min(bounds.most, cap if cap is not None else bounds.most))
        if history[-1].missing:
            assert target == fewest


def test_the_queue_policy_aims_at_waiting_requests_per_replica_and_at_the_cache() -> None:
    bounds = Bounds(1, 20)
    assert QueueAndCache(bounds).decide(samples(1, waiting=40, kv_ratio=0.8), 0).target_replicas == 10
    assert QueueAndCache(bounds).decide(samples(1, waiting=0, kv_ratio=1.0), 0).target_replicas == 3
    assert QueueAndCache(bounds).decide(samples(1, waiting=8.5, kv_ratio=0.1), 0).action == "hold"  # inside the tolerance


def test_replicas_fall_only_when_the_whole_quiet_time_allows_it() -> None:
    busy, idle = Sample(0, 4, waiting=16, kv_ratio=0.8), Sample(100, 4)
    assert QueueAndCache().decide([busy, idle], 0).action == "hold"
    assert QueueAndCache().decide([busy, Sample(301, 4)], 0).target_replicas == 1


def test_a_forecast_only_adds() -> None:
    falling = [Sample(15.0 * i, 4, kv_ratio=0.9 - i * 0.08) for i in range(10)]
    rising = [Sample(15.0 * i, 4, kv_ratio=i * 0.08) for i in range(10)]
    plain, seeing = QueueAndCache(), QueueAndCache(horizon=10)
    assert seeing.decide(falling, 0) == plain.decide(falling, 0)
    assert seeing.decide(rising, 0).target_replicas > plain.decide(rising, 0).target_replicas


def test_thresholds_are_70_30_and_80_40_with_a_pause_of_300_seconds() -> None:
    policy = Thresholds()
    for cpu, memory, target in ((0.71, 0, 3), (0, 0.81, 3), (0.5, 0.5, 2), (0.29, 0.39, 1), (0.29, 0.41, 2), (0.31, 0.39, 2)):
        assert policy.decide(samples(cpu=cpu, memory=memory), -1000).target_replicas == target
    assert policy.decide(samples(1, cpu=1), -299).action == "hold"


def test_the_budget_is_a_hard_cap_that_never_goes_below_the_floor() -> None:
    assert replica_cap(100, 12.5) == 8
    assert replica_cap(100, 12.5, 30) == 5
    assert replica_cap(10, 12.5) == 0
    assert replica_cap(0.3, 0.1) == 3
    with pytest.raises(ValueError, match="above 0"):
        replica_cap(1, 0)
    assert CpuAndMemory(Bounds(1, 10, 3)).decide(samples(cpu=1, memory=1, replicas=3), 0).target_replicas == 3
    assert Fixed(Bounds(2, 10, 0)).decide(samples(), 0).target_replicas == 2


def test_a_line_is_the_least_squares_line() -> None:
    assert line([1, 2, 3, 4]) == pytest.approx((1, 4))
    assert line([7]) == (0, 7)


REPLICA = Replica(capacity=10, start_seconds=60, queue=100, hourly_usd=2.0)


def test_a_steady_load_costs_its_replicas() -> None:
    found = run(Fixed(Bounds(2, 2)), Trace((15.0,) * 240, 15), REPLICA, 2)
    assert found.cost_usd == pytest.approx(4.0)
    assert (found.slo_minutes_missed, found.refused_requests, found.mean_replicas) == (0, 0, 2)


def test_what_does_not_fit_waits_then_is_refused_and_misses_the_service_level() -> None:
    found = run(Fixed(Bounds(1, 1)), Trace((20.0,) * 40, 15), REPLICA, 1)
    assert found.refused_requests == pytest.approx(20 * 600 - 10 * 600 - 100)
    assert found.slo_minutes_missed == pytest.approx(10)
    assert found.longest_wait_seconds == pytest.approx(10)


def test_the_queue_policy_misses_less_than_hybrid_smart_on_a_day_of_load() -> None:
    replica = Replica(capacity=10, gpu=True, hourly_usd=2.0)
    policies = every_policy(Bounds(1, 10), 4, 0.8, 0.7, 0.8, 300)
    found = {result.policy: result for result in compare(policies, generate("day", 60, seed=1), replica, 1)}
    assert found["queue"].slo_minutes_missed < found["hybrid_smart"].slo_minutes_missed
    assert found["queue"].slo_minutes_missed < found["cpu"].slo_minutes_missed
    assert found["queue"].max_replicas <= 10


def test_a_recorded_trace_is_read_from_csv_and_json() -> None:
    assert parse("seconds,requests_per_second\n0,1\n30,2.5\n", "t") == Trace((1.0, 2.5), 30)
    assert parse("[[0, 1], [30, 2.5]]", "t") == Trace((1.0, 2.5), 30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "seconds and requests_per_second"),
        ("seconds,requests_per_second\n0,1\n", "at least two rows"),
        ("seconds,requests_per_second\n0,1\n10,1\n25,1\n", "row 3.*expected 20"),
        ("seconds,requests_per_second\n0,1\n10,-1\n", "row 2.*at least 0"),
        ("seconds,requests_per_second\n0,1\n10,x\n", "row 2.*two numbers"),
        ("[[0]]", "expected"),
    ],
)
def test_a_bad_trace_says_where_and_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(BadTrace, match=words):
        parse(text, "trace.csv")


def test_the_process_answers_json_and_refuses_a_bad_trace() -> None:
    asked = {
        "trace": {"shape": "steady", "peak": 5, "hours": 1},
        "replica": {"capacity": 10, "hourly_usd": 2},
        "bounds": {"fewest": 1, "most": 4},
        "budget_hourly_usd": 6,
        "targets": {"queue": 4, "kv": 0.8, "cpu": 0.7, "memory": 0.8, "down_seconds": 300},
        "slo_seconds": 5,
    }
    command = [sys.executable, "-m", "inferstack_runtime.autoscaler"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["replica_cap"] == 3
    assert [row["policy"] for row in report["policies"]] == ["fixed", "cpu", "thresholds", "hybrid_smart", "queue", "queue_forecast"]
    done = subprocess.run(command, input=json.dumps(asked | {"trace": {"shape": "x", "peak": 1}}), capture_output=True, text=True)
    assert (done.returncode, "expected one of" in done.stderr) == (2, True)
