"""What a check concludes from what was measured."""

import math
from dataclasses import replace

import pytest

from inferstack.environment import Gates
from inferstack.promotion.gates import Evidence, decide, failed_early, from_baseline, to_baseline, usd_per_million_tokens
from inferstack.promotion.measure import Counters, Histogram, WindowStats, larger, leak, window
from inferstack.promotion.platform import Agreement

GATES = Gates(min_requests=20, ttft_p95_seconds=1.0, inter_token_p95_seconds=0.5)


def stats(requests: float = 100, ttft: float = 0.1, gap: float = 0.02, **changes: float) -> WindowStats:
    made = WindowStats(
        requests=requests,
        ttft=Histogram.of([ttft] * int(requests)),
        inter_token=Histogram.of([gap] * int(requests)),
        seconds=30,
        replicas=2,
        tokens=requests * 10,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def verdict(new: WindowStats | None, live: WindowStats | None = None, gates: Gates = GATES, **evidence: object) -> tuple[str, str]:
    found = decide("post-check", Evidence(new=new, live=live, **evidence), gates, 0.0)  # type: ignore[arg-type]
    return found.result, "; ".join(found.reasons)


def test_a_version_as_good_as_the_live_one_passes() -> None:
    assert verdict(stats(), stats()) == ("pass", "")


@pytest.mark.parametrize(
    ("new", "word"),
    [
        (stats(errors=5), "failed"),
        (stats(ttft=2.0), "first token"),
        (stats(gap=0.9), "between tokens"),
        (stats(ttft=0.3), "the live slot"),
        (stats(resident_growth=0.5), "memory"),
        (stats(restarts=1), "restarted"),
        (stats(cache_hits=100, cache_false_hits=5), "cache"),
    ],
)
def test_each_gate_fails_alone(new: WindowStats, word: str) -> None:
    result, reason = verdict(new, stats())
    assert result == "fail"
    assert word in reason


def test_nothing_measured_is_never_a_pass() -> None:
    assert verdict(None, stats()) == ("inconclusive", "no metrics from the new slot")
    assert verdict(stats(requests=3))[0] == "inconclusive"
    assert verdict(replace(stats(), ttft=Histogram()))[0] == "inconclusive"
    assert verdict(stats(), gates=replace_gates(usd_per_million_tokens=5.0))[0] == "inconclusive"
    assert verdict(stats(), sent=True)[0] == "inconclusive"


def replace_gates(**changes: object) -> Gates:
    return GATES.model_copy(update=changes)


def test_a_fault_that_the_live_slot_has_too_is_not_the_new_versions() -> None:
    assert verdict(stats(errors=5), stats(errors=6))[0] == "pass"
    assert verdict(stats(errors=50), stats(errors=6))[0] == "fail"


def test_slower_by_chance_is_not_slower() -> None:
    noisy = [0.1] * 19 + [0.4]
    new = replace(stats(20), ttft=Histogram.of(noisy))
    live = replace(stats(20), ttft=Histogram.of([0.1] * 20))
    assert verdict(new, live)[0] == "pass"


def test_an_overloaded_live_slot_excuses_an_absolute_bound_only_up_to_itself() -> None:
    assert verdict(stats(ttft=2.0), stats(ttft=3.0))[0] == "pass"
    assert verdict(stats(ttft=4.0), stats(ttft=3.0))[0] == "fail"


def test_answers_and_price_are_judged_where_asked() -> None:
    assert verdict(stats(), sent=True, agreement=Agreement(0.2, 100))[0] == "fail"
    assert verdict(stats(), sent=True, agreement=Agreement(0.9, 100))[0] == "pass"
    assert verdict(stats(), gates=replace_gates(accuracy=0.95), sent=True, agreement=Agreement(0.9, 100))[0] == "fail"
    cheap = replace_gates(usd_per_million_tokens=50.0)
    # 2 replicas at 3 $/h for 30 s are 0.05 $; 1,000 tokens for it make 50 $ per million
    assert usd_per_million_tokens(stats(), 3.0) == pytest.approx(50.0)
    assert verdict(stats(), gates=cheap, hourly_usd=2.9)[0] == "pass"
    assert verdict(stats(), gates=cheap, hourly_usd=3.1)[0] == "fail"


def test_a_window_that_is_lost_ends_early_and_a_single_error_does_not_end_it() -> None:
    assert failed_early(stats(requests=10, errors=5, seconds=2), GATES)
    assert not failed_early(stats(requests=100, errors=1, seconds=10), GATES)
    assert not failed_early(None, GATES)


def test_the_baseline_survives_the_journal() -> None:
    import json

    before = stats()
    assert from_baseline(json.loads(json.dumps(to_baseline(before)))) == before
    assert from_baseline(None) is None


def test_quantiles_are_those_of_prometheus() -> None:
    histogram = Histogram((0.1, 0.2, math.inf), (50, 50, 0))
    assert histogram.quantile(0.5) == pytest.approx(0.1)
    assert histogram.quantile(0.95) == pytest.approx(0.19)
    assert Histogram((0.1, math.inf), (0, 10)).quantile(0.5) == pytest.approx(0.1)
    assert Histogram().quantile(0.5) is None


def test_a_restarted_replica_counts_from_nothing_and_is_noticed() -> None:
    before = {"a": Counters(requests=100, resident_bytes=100, started=1), "b": Counters(requests=10, started=1)}
    after = {"a": Counters(requests=5, resident_bytes=100, started=2), "c": Counters(requests=7, started=3)}
    found = window(before, after, 10)
    assert found.requests == 12
    assert found.restarts == 2


def test_a_cache_that_fills_up_is_no_leak() -> None:
    before = {"a": Counters(resident_bytes=100, bounded_bytes=50)}
    after = {"a": Counters(resident_bytes=145, bounded_bytes=50)}
    assert (window(before, after, 10).resident_growth or 0) < 0
    assert leak(before, after) == pytest.approx(0.45)


def test_the_rank_test_knows_larger_from_smaller_and_is_blind_to_counts_alone() -> None:
    small, large = Histogram.of([0.1] * 50), Histogram.of([0.3] * 50)
    assert larger(large, small) > 5
    assert larger(small, large) < -5
    assert abs(larger(Histogram.of([0.1] * 500), small)) < 1e-6
    assert larger(Histogram(), small) == 0
