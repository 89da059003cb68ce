"""The native engine on the bundled model."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from inferstack_runtime.engines.base import GenerationRequest, LoadedModel, QueueFull, Sampling, StepOutput

GREEDY = Sampling(temperature=0)
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


Load = Callable[..., LoadedModel]
Run = Callable[..., dict[str, list[StepOutput]]]


def tokens_of(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def prompt(loaded: LoadedModel, text: str) -> list[int]:
    return loaded.tokenizer.encode(CHAT.format(text))


def test_it_answers(loaded: LoadedModel, run_all: Run) -> None:
    outputs = run_all(loaded, [GenerationRequest("a", prompt(loaded, "What is the capital of France?"), 20, GREEDY)])["a"]
    assert loaded.tokenizer.decode(tokens_of(outputs)) == "The capital of France is Paris."
    assert outputs[-1].finish_reason == "stop"


def test_a_seed_gives_the_same_answer_whatever_the_batch_around_it(loaded: LoadedModel, run_all: Run) -> None:
    sampling = Sampling(temperature=0.9, top_p=0.95, seed=11, ignore_eos=True)
    ids = prompt(loaded, "Tell me a story about a fox.")
    alone = tokens_of(run_all(loaded, [GenerationRequest("a", ids, 24, sampling)])["a"])
    others = [
        GenerationRequest(f"o{i}", prompt(loaded, "Count " * (7 * i + 1)), 12 + i, Sampling(seed=i, top_k=40 * (i % 2))) for i in range(6)
    ]
    crowd = tokens_of(run_all(loaded, [*others, GenerationRequest("a", ids, 24, sampling, tenant="other")])["a"])
    assert crowd == alone
    assert tokens_of(run_all(loaded, [GenerationRequest("b", ids, 24, Sampling(temperature=0.9, top_p=0.95, seed=12))])["b"]) != alone


@pytest.mark.parametrize(("kv_dtype", "kept"), [("auto", "bf16"), ("int8", "int8"), ("fp32", "fp32")])
def test_keys_and_values_are_kept_as_asked_for(load: Load, run_all: Run, kv_dtype: str, kept: str) -> None:
    loaded = load(kv_dtype=kv_dtype)
    outputs = run_all(loaded, [GenerationRequest("a", prompt(loaded, "What is the capital of France?"), 20, GREEDY)])["a"]
    assert loaded.tokenizer.decode(tokens_of(outputs)) == "The capital of France is Paris."
    assert loaded.engine.stats().kv_dtype == kept


REPEATS = "apple, pear, plum, cherry, fig, quince. " * 6
"""The answer to it repeats, on whatever CPU: no close call between two tokens."""


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0, ignore_eos=True),
        Sampling(temperature=0, ignore_eos=True, logprobs=2, presence_penalty=0.4, frequency_penalty=0.2, repetition_penalty=1.1),
        Sampling(temperature=0.4, seed=5, ignore_eos=True),
    ],
)
def test_one_stream_guesses_ahead_and_answers_as_in_a_crowd(load: Load, run_all: Run, sampling: Sampling) -> None:
    loaded = load()
    ids = loaded.tokenizer.encode(REPEATS)
    alone = run_all(loaded, [GenerationRequest("a", ids, 60, sampling)])["a"]
    steps = loaded.engine.stats().steps
    crowd = [GenerationRequest(f"o{i}", prompt(loaded, f"Count to {i}."), 70, Sampling(temperature=0, ignore_eos=True)) for i in range(3)]
    together = run_all(loaded, [*crowd, GenerationRequest("a", ids, 60, sampling)])["a"]
    assert tokens_of(alone) == tokens_of(together)
    assert len(tokens_of(alone)) == 60
    assert [output.logprobs for output in alone] == [output.logprobs for output in together]
    if not sampling.presence_penalty:  # penalties keep an answer from repeating what could be guessed
        assert steps < 60
        stats = loaded.engine.stats()
        assert stats.guessed_tokens >= stats.accepted_guesses >= 60 - steps
    assert alone[-1].finish_reason == "length"
    assert loaded.engine.stats().kv_bytes_used == 0


def test_a_guess_ends_where_the_answer_ends(load: Load, run_all: Run) -> None:
    loaded = load()
    ids = loaded.tokenizer.encode(REPEATS)
    whole = tokens_of(run_all(loaded, [GenerationRequest("a", ids, 40, Sampling(temperature=0, ignore_eos=True))])["a"])
    for length in (1, 2, 7, 23):
        outputs = run_all(loaded, [GenerationRequest("a", ids, length, Sampling(temperature=0, ignore_eos=True))])["a"]
        assert tokens_of(outputs) == whole[:length]
    stop = whole[20]
    first = whole.index(stop)
    outputs = run_all(loaded, [GenerationRequest("a", ids, 40, Sampling(temperature=0, stop_token_ids=frozenset([stop])))])["a"]
    assert tokens_of(outputs) == whole[:first]
    assert outputs[-1].finish_reason == "stop"
    follow = run_all(loaded, [GenerationRequest("b", [*ids, *whole], 8, Sampling(temperature=0, ignore_eos=True))])["b"]
    fresh = run_all(loaded, [GenerationRequest("b", [*ids, *whole], 8, Sampling(temperature=0, ignore_eos=True), tenant="other")])["b"]
    assert tokens_of(follow) == tokens_of(fresh)
    assert follow[0].cached_prompt_tokens >= len(ids) + len(whole) - 64


def test_a_follow_up_turn_does_not_compute_its_history_again(loaded: LoadedModel, run_all: Run) -> None:
    first = prompt(loaded, "Explain what a compiler does, in five sentences, for a child of ten years.")
    answer = tokens_of(run_all(loaded, [GenerationRequest("a", first, 80, Sampling(temperature=0, ignore_eos=True))])["a"])
    second = [*first, *answer, *loaded.tokenizer.encode("<|im_end|>\n" + CHAT.format("Shorter."))]
    outputs = run_all(loaded, [GenerationRequest("b", second, 8, GREEDY)])["b"]
    history = len(first) + len(answer) - 1
    assert outputs[0].cached_prompt_tokens >= history - history % 32
    fresh = run_all(loaded, [GenerationRequest("c", second, 8, GREEDY, tenant="stranger")])["c"]
    assert fresh[0].cached_prompt_tokens == 0
    assert tokens_of(fresh) == tokens_of(outputs)


def test_a_request_can_be_aborted_while_it_runs_and_while_it_waits(load: Load) -> None:
    loaded = load(max_sequences=1)
    ids = prompt(loaded, "Hello")
    loaded.engine.submit(GenerationRequest("runs", ids, 400, Sampling(temperature=0, ignore_eos=True)))
    loaded.engine.submit(GenerationRequest("waits", ids, 400, GREEDY))
    loaded.engine.step()
    loaded.engine.abort("waits")
    loaded.engine.abort("runs")
    loaded.engine.abort("nobody")
    reasons = {output.request_id: output.finish_reason for output in loaded.engine.step()}
    assert reasons == {"runs": "abort", "waits": "abort"}
    stats = loaded.engine.stats()
    assert (stats.running, stats.waiting, stats.kv_bytes_used) == (0, 0, 0)


def test_the_wait_of_a_request_is_told_once_with_its_first_token(load: Load, run_all: Run) -> None:
    loaded = load(max_sequences=1)
    ids = prompt(loaded, "Tell me a story.")
    endless = Sampling(temperature=0, ignore_eos=True)
    started = time.perf_counter()
    outputs = run_all(loaded, [GenerationRequest("first", ids, 24, endless), GenerationRequest("second", ids, 4, endless)])
    told = {name: [output.queue_seconds for output in those if output.tokens] for name, those in outputs.items()}
    assert {name: [seconds for seconds in waits[1:] if seconds is not None] for name, waits in told.items()} == {"first": [], "second": []}
    assert 0 <= told["first"][0] < told["second"][0] < time.perf_counter() - started, "the second waits for the first to end"


def test_the_queue_is_bounded(load: Load) -> None:
    loaded = load(max_sequences=2, max_queue=3)
    ids = prompt(loaded, "Hello")
    for i in range(5):
        loaded.engine.submit(GenerationRequest(f"q{i}", ids, 4, GREEDY))
    with pytest.raises(QueueFull) as full:
        loaded.engine.submit(GenerationRequest("q5", ids, 4, GREEDY))
    assert full.value.retry_after_seconds >= 1
    run = 0
    while loaded.engine.stats().running + loaded.engine.stats().waiting:
        run += len([output for output in loaded.engine.step() if output.finish_reason])
    assert run == 5


def test_a_small_cache_preempts_and_still_answers_alike(load: Load, loaded: LoadedModel, run_all: Run) -> None:
    small = load(kv_cache_bytes=8 * 737_280, max_sequences=4)
    requests = [
        GenerationRequest(f"p{i}", prompt(small, f"Tell me about the number {i}."), 70, Sampling(temperature=0, ignore_eos=True))
        for i in range(4)
    ]
    squeezed = run_all(small, requests)
    assert small.engine.stats().preemptions > 0
    roomy = run_all(loaded, requests)
    for request in requests:
        assert tokens_of(squeezed[request.request_id]) == tokens_of(roomy[request.request_id])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "empty"),
        ({"prompt": [1] * 600}, "600 tokens, the context of 512"),
        ({"prompt": [1, 49152]}, "outside the vocabulary of 49152"),
        ({"prompt": [-1]}, "outside the vocabulary"),
        ({"sampling": Sampling(logit_bias={99999: 1.0})}, "logit_bias"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature"),
        ({"sampling": Sampling(logprobs=21)}, "0 to 20"),
    ],
)
def test_a_request_that_can_never_run_is_refused_with_its_reason(loaded: LoadedModel, changes: dict, message: str) -> None:
    fields = {"request_id": "bad", "prompt": [1, 2], "max_tokens": 4} | changes
    with pytest.raises(ValueError, match=message):
        loaded.engine.submit(GenerationRequest(**fields))


def test_submitting_from_another_thread_wakes_a_waiting_step(loaded: LoadedModel) -> None:
    request = GenerationRequest("late", prompt(loaded, "Hi"), 1, GREEDY)
    timer = threading.Timer(0.05, loaded.engine.submit, [request])
    timer.start()
    outputs = loaded.engine.step(timeout=10)
    timer.join()
    assert [output.request_id for output in outputs] == ["late"]


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys, inferstack_runtime.engines.native, inferstack_runtime.engines.registry, inferstack_runtime.engines.opening;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
