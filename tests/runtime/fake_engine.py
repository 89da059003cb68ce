"""A small deterministic engine over bytes, for tests of the service. Also a program: a runtime process that serves it.

    python fake_engine.py --config FILE.json [--step-seconds 0.01] [--length 20] [--load-seconds 0] [--lease-seconds 60]

Every answer is made of words that a hash of prompt, seed and position chooses, so equal requests have equal answers and others do not.
"""

import argparse
import codecs
import hashlib
import sys
import threading
import time
from collections.abc import Sequence

from inferstack_runtime.engines.base import (
    EngineStats,
    GenerationRequest,
    LoadedModel,
    QueueFull,
    StepOutput,
    TokenLogprobs,
)

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
END = 257
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOL_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<tool_call></tool_call><|im_end|>\n' }}{% endif %}" + TEMPLATE
)
DIGEST = "sha256:" + hashlib.sha256(b"fake").hexdigest()


class _Decoder:
    def __init__(self, tokenizer: "ByteTokenizer") -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self, token: int) -> str | None:
        return self._utf8.decode(bytes([token])) or None if token < 256 else None


class ByteTokenizer:
    """One token per UTF-8 byte, and the special tokens of ChatML."""

    vocabulary_size = 256 + len(SPECIAL)
    longest = max(map(len, SPECIAL))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        while text:
            at, special = min(((text.find(s), s) for s in SPECIAL if s in text), default=(len(text), ""))
            ids += text[:at].encode()
            if special:
                ids.append(256 + SPECIAL.index(special))
            text = text[at + len(special) :]
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return b"".join(self.id_to_bytes(i) for i in ids if i < 256 or not skip_special_tokens).decode("utf-8", "replace")

    def decode_stream(self) -> _Decoder:
        return _Decoder(self)

    def token_to_id(self, token: str) -> int | None:
        return 256 + SPECIAL.index(token) if token in SPECIAL else None

    def id_to_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else SPECIAL[token_id - 256].encode()


class FakeEngine:
    """Generates `length` tokens per request, one per step, for all requests together."""

    def __init__(self, length: int = 20, step_seconds: float = 0.0, max_queue: int = 256, max_sequences: int = 32) -> None:
        self.length = length
        self.step_seconds = step_seconds
        self.max_queue, self.max_sequences = max_queue, max_sequences
        self.requests: dict[str, tuple[GenerationRequest, list[int], float]] = {}
        self.submitted: list[GenerationRequest] = []
        self.aborted: list[str] = []
        self.fail_with: Exception | None = None
        self.steps = 0
        self._work = threading.Condition()
        self._generated = 0
        self._prompts = 0

    def submit(self, request: GenerationRequest) -> None:
        with self._work:
            if len(self.requests) >= self.max_sequences + self.max_queue:
                raise QueueFull(3.0)
            self.submitted.append(request)
            self.requests[request.request_id] = (request, [], time.perf_counter())
            self._prompts += len(request.prompt)
            self._work.notify()

    def abort(self, request_id: str) -> None:
        with self._work:
            self.aborted.append(request_id)
            self.requests.pop(request_id, None)

    def step(self, timeout: float | None = None) -> list[StepOutput]:
        with self._work:
            if not self.requests:
                self._work.wait(timeout)
            active = list(self.requests.values())[: self.max_sequences]
        if not active:
            return []
        if self.fail_with is not None:
            raise self.fail_with
        if self.step_seconds:
            time.sleep(self.step_seconds)
        self.steps += 1
        return [self._next(*entry) for entry in active]

    def _next(self, request: GenerationRequest, made: list[int], arrived: float) -> StepOutput:
        sampling = request.sampling
        token = self._choose(request, made)
        first = not made
        made.append(token)
        self._generated += 1
        if request.mask is not None:
            request.mask.accept(token)
        finish = None
        if (token == END and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            finish = "stop"
        elif len(made) >= request.max_tokens:
            finish = "length"
        logprobs: tuple[TokenLogprobs, ...] = ()
        if sampling.logprobs is not None:
            logprobs = (_logprobs(token, sampling.logprobs),)
        prompt: tuple[TokenLogprobs | None, ...] = ()
        if first and sampling.prompt_logprobs:
            prompt = (None, *(_logprobs(t, sampling.logprobs or 0) for t in request.prompt[1:]))
        if finish is not None:
            with self._work:
                self.requests.pop(request.request_id, None)
        return StepOutput(
            request.request_id, (token,), logprobs, prompt, finish, queue_seconds=time.perf_counter() - arrived if first else None
        )

    def _choose(self, request: GenerationRequest, made: list[int]) -> int:
        sampling = request.sampling
        salt = "greedy" if sampling.temperature == 0 else str(sampling.seed if sampling.seed is not None else request.request_id)
        if len(made) >= self.length and request.mask is None:
            return END
        key = hashlib.sha256(repr((tuple(request.prompt), salt)).encode()).digest()
        text = " ".join(f"{key[i % 32]:02x}é{i}" for i in range(self.length))
        token = text.encode()[len(made)]
        if request.mask is None:
            return token
        words = bytearray(4 * ((ByteTokenizer.vocabulary_size + 31) // 32))
        request.mask.fill(memoryview(words))
        allowed = [i for i in range(ByteTokenizer.vocabulary_size) if words[i // 8] >> (i % 8) & 1]
        for wished in (END, *b'"}],:1a', token):
            if wished in allowed:
                return wished
        return allowed[key[len(made) % 32] % len(allowed)]

    def stats(self) -> EngineStats:
        return EngineStats(
            running=min(len(self.requests), self.max_sequences),
            kv_bytes_used=len(self.requests),
            kv_bytes_total=1000,
            generated_tokens=self._generated,
            prompt_tokens=self._prompts,
            steps=self.steps,
        )

    def close(self) -> None:
        self.requests.clear()


def _logprobs(token: int, count: int) -> TokenLogprobs:
    return TokenLogprobs(token, -0.5, tuple(((token + i) % 256, -0.5 - i) for i in range(count)))


def fake_model(name: str = "fake", engine: FakeEngine | None = None, context: int = 2048, template: str | None = TEMPLATE) -> LoadedModel:
    return LoadedModel(
        name=name,
        engine=engine or FakeEngine(),
        tokenizer=ByteTokenizer(),
        digest=DIGEST,
        quantization="gguf",
        context=context,
        chat_template=template,
        special_tokens={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        eos_token_ids=frozenset({END}),
        architecture="fake",
        weight_bytes=1000,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--lease-seconds", type=int, help="how long an item of a batch stays a dead process's")
    options = parser.parse_args()
    from pathlib import Path

    from inferstack_runtime import logs, server
    from inferstack_runtime.config import load_config

    config = load_config(Path(options.config))
    if options.lease_seconds is not None:
        from inferstack_runtime.batches import store

        store.LEASE_SECONDS = options.lease_seconds

    def load(model, report):
        report("reading", 0.5)
        time.sleep(options.load_seconds)
        engine = FakeEngine(options.length, options.step_seconds, config.engine.max_queue, config.engine.max_sequences)
        return fake_model(model.name, engine, model.context)

    logs.set_up()
    sys.exit(server.run(config, load))


if __name__ == "__main__":
    main()
