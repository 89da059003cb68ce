"""An answer is a function of its request and its seed: the same tokens and log-probabilities to the last bit alone or in any crowd,
whatever the size of steps and of the KV cache, with prompts taken over from others, after preemption, and with guesses or without."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inferstack_runtime import kernels
from inferstack_runtime.engines.base import GenerationRequest, Sampling, StepOutput
from inferstack_runtime.engines.decoder import Decoder
from inferstack_runtime.engines.native import BatchingEngine
from inferstack_runtime.engines.opening import open_model
from inferstack_runtime.engines.source import ModelSource
from inferstack_runtime.scheduling.scheduler import Limits
from tests.runtime.engines.test_architectures import CONFIG, VOCABULARY, random_weights, write_folder

CONTEXT = 192
Answer = tuple[list[int], list[object], tuple[object, ...]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return open_model(write_folder(tmp_path_factory.mktemp("reproducible") / "model", CONFIG, random_weights(CONFIG)), None)


def engine(source: ModelSource, *, blocks: int = 64, batch: int = 256, sequences: int = 6) -> BatchingEngine:
    decoder = Decoder(source, "int8", context=CONTEXT, threads=2)
    return BatchingEngine(decoder, Limits(sequences, batch, 64, CONTEXT), blocks * decoder.block_bytes, source.end_tokens)


@pytest.fixture(scope="module")
def roomy(source: ModelSource) -> Iterator[BatchingEngine]:
    made = engine(source)
    yield made
    made.close()


def run(engine: BatchingEngine, requests: list[GenerationRequest], together: int) -> dict[str, Answer]:
    """Everybody's answer; `together` of the requests are there before the first step, then one more comes per step."""
    outputs: dict[str, list[StepOutput]] = {request.request_id: [] for request in requests}
    waiting = list(requests)
    for _ in range(4000):
        for _ in range(together if len(waiting) == len(requests) else 1):
            if waiting:
                engine.submit(waiting.pop(0))
        for output in engine.step(0.01):
            outputs[output.request_id].append(output)
        if all(parts and parts[-1].finish_reason for parts in outputs.values()):
            break
    else:
        raise AssertionError("an answer did not end")
    assert {parts[-1].finish_reason for parts in outputs.values()} <= {"stop", "length"}
    return {
        name: (
            [token for part in parts for token in part.tokens],
            [entry for part in parts for entry in part.logprobs],
            tuple(entry for part in parts for entry in part.prompt_logprobs),
        )
        for name, parts in outputs.items()
    }


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 7]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.2]),
    min_p=st.sampled_from([0.0, 0.0, 0.1]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.0, -0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2]),
    logit_bias=st.sampled_from([{}, {3: 2.0, 89: -100.0}]),
    seed=st.integers(-(2**63), 2**63 - 1),
    logprobs=st.sampled_from([None, 0, 4]),
    prompt_logprobs=st.booleans(),
    ignore_eos=st.just(True),
)
START = [int(token) for token in range(5, 75)]
prompts = st.one_of(
    st.integers(1, 70).map(lambda length: START[:length]),  # beginnings that others have computed
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=100),
    st.lists(st.integers(0, 3), min_size=4, max_size=40),  # what repeats is guessed
)
orders = st.lists(st.tuples(prompts, samplings, st.integers(1, 60), st.sampled_from(["", "b"]), st.integers(0, 1)), min_size=1, max_size=9)
PREEMPTED = [(START[:60], Sampling(seed=i, prompt_logprobs=True, logprobs=2, ignore_eos=True), 60, "ab"[i % 2], i % 2) for i in range(6)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=orders, blocks=st.integers(6, 24), batch=st.sampled_from([16, 40, 256]), slots=st.integers(1, 6), together=st.integers(1, 9))
@example(asked=PREEMPTED, blocks=9, batch=16, slots=6, together=6)
def test_alone_and_in_any_crowd(
    source: ModelSource,
    roomy: BatchingEngine,
    asked: list[tuple[list[int], Sampling, int, str, int]],
    blocks: int,
    batch: int,
    slots: int,
    together: int,
) -> None:
    requests = [
        GenerationRequest(f"r{i}", prompt, most, sampling, tenant=tenant, priority=priority)
        for i, (prompt, sampling, most, tenant, priority) in enumerate(asked)
    ]
    small = engine(source, blocks=blocks, batch=batch, sequences=slots)
    crowd = run(small, requests, together)
    assert small.stats().kv_bytes_used == 0
    small.close()
    for request in requests:
        fits = min(request.max_tokens, small.context - len(request.prompt))
        alone = run(roomy, [replace(request, tenant=f"{request.tenant} alone", max_tokens=fits)], 1)[request.request_id]
        assert crowd[request.request_id] == alone
        assert len(alone[2]) == (len(request.prompt) if request.sampling.prompt_logprobs else 0)
        assert len(alone[0]) == fits


@pytest.mark.parametrize("variant", kernels.supported())
def test_logits_are_the_same_whatever_other_rows_are_sampled_from(source: ModelSource, variant: str) -> None:
    """The last layer computes sampled rows alone, here of three sequences: all rows, some, or the last of each."""
    decoder = Decoder(source, "int8", context=CONTEXT, threads=2, library=kernels.load(variant))
    decoder.allocate_cache(6)
    rng = np.random.default_rng(5)
    lengths = (40, 1, 23)
    total, starts = sum(lengths), np.cumsum((0, *lengths[:-1]))
    tokens = rng.integers(0, VOCABULARY, total).astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    segments = np.array([(i, start, length) for i, (start, length) in enumerate(zip(starts, lengths, strict=True))], kernels.SEGMENT)
    tables = np.arange(6, dtype=np.int32).reshape(3, 2)

    def logits(rows: list[int]) -> np.ndarray:
        specs = np.zeros(len(rows), kernels.SAMPLE_SPEC)
        specs["row"], specs["target"], specs["alternatives"], specs["repetition"] = rows, -1, -1, 1
        out = np.full((len(rows), VOCABULARY), np.nan, np.float32)
        decoder.step(tokens, positions, segments, tables, specs, np.zeros(len(rows), kernels.SAMPLE_RESULT), out)
        return out

    everything = logits([*range(total)])
    assert np.isfinite(everything).all()
    for rows in ([39, 40, 63], [63], [12, 13, 14, 40, 50], [50, 7, 7]):
        np.testing.assert_array_equal(logits(rows), everything[rows])
    decoder.step(tokens, positions, segments, tables, np.zeros(0, kernels.SAMPLE_SPEC), np.zeros(0, kernels.SAMPLE_RESULT))
    decoder.close()


def test_an_answer_ends_where_the_cache_does(source: ModelSource) -> None:
    small = engine(source, blocks=2)
    assert small.context == 64
    tokens, _, _ = run(small, [GenerationRequest("a", [4] * 10, 150, Sampling(temperature=0, ignore_eos=True))], 1)["a"]
    assert len(tokens) == 54
    with pytest.raises(ValueError, match="the context of 64"):
        small.submit(GenerationRequest("b", [4] * 64, 1))
    small.close()
