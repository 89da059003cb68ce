"""Numbers that are none in the middle of an answer: the sequence that they reach ends with an error, the one beside it does not."""

from collections.abc import Callable

import pytest

from inferstack_runtime.engines.base import GenerationRequest, LoadedModel, Sampling, StepOutput

Load = Callable[..., LoadedModel]
SAMPLING = Sampling(temperature=0, ignore_eos=True, logprobs=0)
FULL_OF_NAN = 0xFF
"""Bytes that are no number as bf16, as fp32 and as a scale."""


def request(loaded: LoadedModel, name: str, text: str, tokens: int = 12) -> GenerationRequest:
    return GenerationRequest(name, loaded.tokenizer.encode(text), tokens, SAMPLING, tenant=name)


def steps(loaded: LoadedModel, count: int, found: dict[str, list[StepOutput]]) -> None:
    for _ in range(count):
        for output in loaded.engine.step(0.1):
            found.setdefault(output.request_id, []).append(output)


def tokens_of(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def alone(load: Load, dtype: str, text: str) -> list[int]:
    loaded, found = load(kv_dtype=dtype), {}
    loaded.engine.submit(request(loaded, "x", text))
    steps(loaded, 20, found)
    return tokens_of(found["x"])


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "int8"])
def test_a_poisoned_sequence_ends_alone(load: Load, dtype: str) -> None:
    expected = alone(load, dtype, "The quick brown fox")
    loaded, found = load(kv_dtype=dtype), {}
    engine = loaded.engine
    engine.submit(request(loaded, "bad", "A poem about rain and about the sea in winter. " * 2))
    engine.submit(request(loaded, "good", "The quick brown fox"))
    steps(loaded, 4, found)
    cache = engine._decoder._cache.reshape(-1, engine._decoder.block_bytes)
    cache[engine._sequences["bad"].blocks] = FULL_OF_NAN
    steps(loaded, 20, found)
    assert found["bad"][-1].finish_reason == "error"
    assert found["bad"][-1].error == "the model's logits are not finite"
    assert tokens_of(found["good"]) == expected
    assert found["good"][-1].finish_reason == "length"
