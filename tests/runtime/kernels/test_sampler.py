"""The native sampler against the definitions of its settings, in numpy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferstack_runtime import kernels

rng = np.random.default_rng(3)
VOCABULARY = 1000


def sample(logits: np.ndarray, *, variant: str | None = None, **settings: object) -> np.void:
    """One draw; arrays in `settings` are handed over by address."""
    library = kernels.load(variant)
    padded = np.full(-(-len(logits) // 16) * 16, -np.inf, np.float32)
    padded[: len(logits)] = logits
    spec = np.zeros(1, kernels.SAMPLE_SPEC)
    spec["target"], spec["alternatives"], spec["repetition"], spec["top_p"], spec["temperature"] = -1, -1, 1, 1, 1
    for key, value in settings.items():
        spec[key] = value.ctypes.data if isinstance(value, np.ndarray) else value
    result = np.zeros(1, kernels.SAMPLE_RESULT)
    library.c.inferstack_sample(padded.ctypes.data, len(logits), spec.ctypes.data, result.ctypes.data)
    return result[0]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def frequencies(logits: np.ndarray, draws: int = 20_000, **settings: object) -> np.ndarray:
    counts = np.zeros(len(logits))
    for position in range(draws):
        counts[sample(logits, seed=5, position=position, **settings)["token"]] += 1
    return counts / draws


def assert_close_to(observed: np.ndarray, expected: np.ndarray, draws: int = 20_000) -> None:
    """Within five standard deviations of each probability, and never a token of probability zero."""
    assert (observed[expected == 0] == 0).all()
    assert (np.abs(observed - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()


SMALL = np.log(np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])).astype(np.float32)


@pytest.mark.parametrize("variant", kernels.supported())
def test_draws_follow_the_softmax(variant: str) -> None:
    assert_close_to(frequencies(SMALL, variant=variant), softmax(SMALL))


def test_temperature_divides_the_logits() -> None:
    assert_close_to(frequencies(SMALL, temperature=0.5), softmax(SMALL / 0.5))


def test_top_k_keeps_the_k_likeliest() -> None:
    expected = softmax(SMALL) * (np.arange(6) < 3)
    assert_close_to(frequencies(SMALL, top_k=3), expected / expected.sum())


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    expected = softmax(SMALL) * (np.arange(6) < 3)  # .4 + .25 < .7 <= .4 + .25 + .15
    assert_close_to(frequencies(SMALL, top_p=0.7), expected / expected.sum())


def test_min_p_keeps_those_near_the_likeliest() -> None:
    expected = softmax(SMALL) * (softmax(SMALL) >= 0.3 * 0.4)
    assert_close_to(frequencies(SMALL, min_p=0.3), expected / expected.sum())


def test_top_p_is_exact_on_a_flat_distribution_too() -> None:
    logits = rng.standard_normal(VOCABULARY).astype(np.float32) * 0.01
    order = np.argsort(-logits, kind="stable")
    mass = np.cumsum(softmax(logits)[order])
    kept = set(order[: int(np.searchsorted(mass, 0.5)) + 1].tolist())
    drawn = {int(sample(logits, top_p=0.5, seed=1, position=i)["token"]) for i in range(4000)}
    assert drawn <= kept
    assert len(drawn) > 0.9 * len(kept)


def test_temperature_zero_takes_the_first_of_the_best() -> None:
    logits = rng.standard_normal(VOCABULARY).astype(np.float32)
    logits[[70, 700]] = 9.0
    assert sample(logits, temperature=0)["token"] == 70


def test_penalties_follow_their_definitions() -> None:
    history = np.array([2, 2, 7, 7, 7, 9], np.int32)  # two tokens of prompt, then the answer
    logits = rng.standard_normal(16).astype(np.float32)
    settings = {"history": history, "prompt": 2, "length": 6, "temperature": 0, "presence": 0.5, "frequency": 0.25, "repetition": 1.3}
    expected = logits.copy()
    for token in (2, 7, 9):
        expected[token] = expected[token] / 1.3 if expected[token] > 0 else expected[token] * 1.3
    expected[7] -= 0.5 + 3 * 0.25
    expected[9] -= 0.5 + 0.25
    assert sample(logits, **settings)["token"] == expected.argmax()
    for token in range(16):  # lift each to where only its own penalty decides
        lifted = logits.copy()
        lifted[token] = 3.0
        after = {2: 3 / 1.3, 7: 3 / 1.3 - 1.25, 9: 3 / 1.3 - 0.75}.get(token, 3.0)
        rival = np.full(16, -9.0, np.float32)
        rival[token] = 3.0
        rival[15 if token != 15 else 14] = after - 0.01
        assert sample(rival, **settings)["token"] == token
        rival[15 if token != 15 else 14] = after + 0.01
        assert sample(rival, **settings)["token"] != token


def test_bias_is_added_and_a_mask_forbids() -> None:
    logits = np.zeros(64, np.float32)
    tokens, values = np.array([5, 6], np.int32), np.array([4.0, 5.0], np.float32)
    bias = {"bias_tokens": tokens, "bias_values": values, "biases": 2, "temperature": 0}
    assert sample(logits, **bias)["token"] == 6
    mask = np.zeros(2, np.uint32)
    mask[0] = 1 << 5 | 1 << 3
    assert sample(logits, **bias, mask=mask)["token"] == 5
    assert sample(logits, mask=np.zeros(2, np.uint32))["status"] == 2


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_reported(poison: float) -> None:
    logits = np.zeros(64, np.float32)
    logits[37] = poison
    assert sample(logits)["status"] == 1


@pytest.mark.parametrize("variant", kernels.supported())
def test_logprobs_are_those_of_the_unchanged_logits(variant: str) -> None:
    logits = (rng.standard_normal(VOCABULARY) * 4).astype(np.float32)
    result = sample(logits, variant=variant, alternatives=5, temperature=0.3, target=123)
    expected = np.log(softmax(logits))
    order = np.argsort(-logits)[:5]
    assert result["token"] == 123
    assert result["logprob"] == pytest.approx(expected[123], abs=1e-5)
    assert result["tokens"][:5].tolist() == order.tolist()
    assert result["logprobs"][:5] == pytest.approx(expected[order], abs=1e-5)


def test_the_seed_and_the_position_decide_the_draw() -> None:
    logits = rng.standard_normal(VOCABULARY).astype(np.float32)
    draws = [int(sample(logits, seed=s, position=p)["token"]) for s in (1, 2) for p in range(20)]
    assert draws == [int(sample(logits, seed=s, position=p)["token"]) for s in (1, 2) for p in range(20)]
    assert draws[:20] != draws[20:]
    assert len(set(draws[:20])) > 10


MASK64 = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """SplitMix64's finalizer of seed and position, in [0, 1)."""

    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) & MASK64
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK64
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK64
        return z ^ z >> 31

    return (mix(mix(seed) ^ mix(~position & MASK64)) >> 11) * 2.0**-53


def expected_draws(logits: np.ndarray, seed: int, position: int, asked: dict[str, Any]) -> set[int]:
    """What the definitions say is drawn; more than one token where rounding may decide between neighbours.

    Repetition divides or multiplies once per token of prompt and answer; frequency and presence count the answer only; then come the
    biases, the temperature, top-k, top-p of what top-k left, and min-p relative to the likeliest.
    """
    x, answer = logits.copy(), asked["history"][asked["prompt"] :]
    repetition, frequency, presence = (np.float32(asked[name]) for name in ("repetition", "frequency", "presence"))
    for token in set(asked["history"]):
        x[token] *= 1 / repetition if x[token] > 0 else repetition
    for token in set(answer):
        x[token] = x[token] - frequency - presence
        for _ in range(answer.count(token) - 1):
            x[token] -= frequency
    for token, value in asked["bias"].items():
        x[token] += np.float32(value)
    if asked["temperature"] == 0:
        return {int(token) for token in np.flatnonzero(x >= x.max() - 1e-6 * np.abs(x).max())}
    weights = np.exp((x - x.max()).astype(np.float64) / asked["temperature"])
    found: set[int] = set()
    for slack in (-1e-4, 0.0, 1e-4):  # at a limit a token may be in or out
        order = np.argsort(-weights, kind="stable")
        if asked["top_k"]:
            order = order[: asked["top_k"]]
        mass = np.cumsum(weights[order]) / (weights[order].sum() if asked["top_k"] else weights.sum())
        count = 1 + int(np.searchsorted(mass[:-1], asked["top_p"] + slack)) if asked["top_p"] < 1 else len(order)
        order = order[:count]
        order = order[(weights[order] >= asked["min_p"] * (1 + slack)) | (np.arange(len(order)) == 0)]
        if not asked["top_k"] and asked["top_p"] >= 1 and asked["min_p"] <= 0:
            order = np.arange(len(x))
        shares = np.cumsum(weights[order])
        for shift in (-1e-4, 0.0, 1e-4):
            goal = (uniform(seed, position) + shift) * shares[-1]
            found.add(int(order[min(int(np.searchsorted(shares, goal, side="right")), len(order) - 1)]))
    ties = weights[:, None] == weights[sorted(found)]  # equal logits may stand in either order
    return found | {int(token) for token in np.flatnonzero(ties.any(axis=1))}


@settings(max_examples=400)
@given(
    data=st.data(),
    variant=st.sampled_from(kernels.supported()),
    size=st.integers(2, 70),
    spread=st.sampled_from([0.01, 1.0, 8.0, 60.0]),
    temperature=st.sampled_from([0.0, 1e-45, 1e-39, 0.01, 0.1, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 60, 2**31 - 1]),
    top_p=st.sampled_from([0.0, 1e-30, 0.1, 0.5, 0.9, 0.9999, 1.0]),
    min_p=st.sampled_from([0.0, 1e-30, 0.01, 0.3, 1.0]),
    bias=st.sampled_from([0.0, -100.0, 100.0, 1.5]),
)
def test_any_settings_together_draw_what_their_definitions_say(
    data: st.DataObject,
    variant: str,
    size: int,
    spread: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    bias: float,
) -> None:
    drawn = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="logits"))
    logits = (drawn.standard_normal(size) * spread).astype(np.float32)
    history = data.draw(st.lists(st.integers(0, size - 1), max_size=12), label="history")
    asked = {
        "temperature": 0 if temperature < 1e-38 else temperature,  # so small that only the likeliest has a chance
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "history": history,
        "prompt": data.draw(st.integers(0, len(history)), label="prompt"),
        "presence": data.draw(st.sampled_from([0.0, 0.5, -2.0]), label="presence"),
        "frequency": data.draw(st.sampled_from([0.0, 0.25, 2.0]), label="frequency"),
        "repetition": data.draw(st.sampled_from([1.0, 1.3, 0.01, 10.0]), label="repetition"),
        "bias": {data.draw(st.integers(0, size - 1), label="biased"): bias} if bias else {},
    }
    given = {name: asked[name] for name in ("top_k", "top_p", "min_p", "prompt", "presence", "frequency", "repetition")}
    given |= {"temperature": temperature, "history": np.array(history, np.int32), "length": len(history), "biases": len(asked["bias"])}
    given |= {"bias_tokens": np.array([*asked["bias"]], np.int32), "bias_values": np.array([*asked["bias"].values()], np.float32)}
    for position in range(6):
        result = sample(logits, variant=variant, seed=17, position=position, alternatives=3, **given)
        assert result["status"] == 0
        assert int(result["token"]) in expected_draws(logits, 17, position, asked)
        assert result["logprob"] <= 1e-6
        assert (np.diff(result["logprobs"][: result["alternatives"]]) <= 0).all()


@pytest.mark.parametrize("variant", kernels.supported())
def test_top_p_is_of_what_top_k_left_also_where_min_p_takes_more(variant: str) -> None:
    shares = np.array([0.28, 0.19, 0.14, 0.11, 0.09, 0.08, 0.07, 0.04], np.float32)
    settings = {"temperature": 1.0, "top_k": 60, "top_p": 0.5, "min_p": 0.3}
    drawn = {int(sample(np.log(shares), variant=variant, seed=3, position=each, **settings)["token"]) for each in range(60)}
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("variant", kernels.supported())
def test_all_logprobs_sum_to_one(variant: str) -> None:
    logits = (rng.standard_normal(20) * 5).astype(np.float32)
    result = sample(logits, variant=variant, alternatives=20)
    assert result["alternatives"] == 20
    assert np.exp(result["logprobs"].astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    assert sorted(result["tokens"].tolist()) == list(range(20))
