"""The real runtime process, with faults on demand: which one is said by `engine.max_queue`, so that it travels through a promotion.

python faulty_runtime.py serve --config FILE.json

A source `file:///light` serves a small deterministic engine instead of a model, for tests that are about promotion and not about models.
"""

import json
import os
import random
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

FAULTS = {
    301: "slow",
    302: "erroring",
    303: "wrong-answer",
    304: "leaking",
    305: "crash-looping",
    306: "never-ready",
    307: "erroring-live",
    308: "slow-live",
    309: "three-times",
    310: "a-fifth",
    311: "twice-between-tokens",
    312: "erroring-rarely",
    313: "wrong-when-long",
    314: "leaking-slowly",
    315: "hanging",
    316: "empty",
    317: "truncating",
    318: "another-encoding",
}
CODES = {name: code for code, name in FAULTS.items()}
LONGER = {"three-times": 3.0, "a-fifth": 1.2}
"""Versions whose steps take that many times as long, whatever they take."""
SYNTHETIC_TOKENS = (1, 8, 64)
"""Promotion's own requests ask for this many tokens; the `-live` faults spare them."""
WARM_REQUESTS = 3
"""The first requests, the process's own warm-up among them, are answered: a version that fails those never becomes ready."""
LEAK_BYTES = {"leaking": 8 * 2**20, "leaking-slowly": 256 * 2**10}
"""Of one request."""
ERRORS = {"erroring": 0.5, "erroring-live": 0.5, "erroring-rarely": 0.03}
"""Share of the requests that fail."""
LONG_TOKENS = 600
"""Prompts from which on `wrong-when-long` is wrong."""
ENDS_AFTER = {"empty": 0, "truncating": 2}
"""Tokens after which every answer ends as if nothing more were to be said."""


class FaultyEngine:
    """An engine whose steps misbehave; everything else is the real one's."""

    def __init__(self, engine: Any, fault: str) -> None:
        self._engine = engine
        self._fault = fault
        self._requests = 0
        self._leaked: list[bytearray] = []
        self._broken: set[str] = set()
        self._slow: set[str] = set()
        self._running: set[str] = set()
        self._begun: dict[str, int] = {}
        """Tokens that requests have so far."""
        self._long: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request: Any) -> None:
        self._running.add(request.request_id)
        live = request.max_tokens not in SYNTHETIC_TOKENS
        if size := LEAK_BYTES.get(self._fault):
            block = bytearray(size)
            block[::4096] = b"x" * len(block[::4096])
            self._leaked.append(block)
        self._requests += 1
        spared = self._requests <= WARM_REQUESTS or (self._fault == "erroring-live" and not live)
        if not spared and random.random() < ERRORS.get(self._fault, 0.0):
            self._broken.add(request.request_id)
        if len(request.prompt) >= LONG_TOKENS:
            self._long.add(request.request_id)
        if self._fault == "slow" or (self._fault == "slow-live" and live):
            self._slow.add(request.request_id)
        self._engine.submit(request)

    def abort(self, request_id: str) -> None:
        self._running.discard(request_id)
        self._engine.abort(request_id)

    def step(self, timeout: float | None = None) -> Any:
        if self._slow:
            time.sleep(0.25)
        outputs = []
        busy, started = bool(self._running), time.perf_counter()
        stepped = self._engine.step(timeout)
        if busy:
            longer = 2.0 if self._fault == "twice-between-tokens" and self._begun else LONGER.get(self._fault, 1.0)
            time.sleep((longer - 1) * (time.perf_counter() - started))
        if self._fault == "hanging" and self._requests > WARM_REQUESTS:
            return []
        for output in stepped:
            self._running -= {output.request_id} if output.finish_reason else set()
            if output.finish_reason:
                self._slow.discard(output.request_id)
            if output.request_id in self._broken:
                self._broken.discard(output.request_id)
                if output.finish_reason is None:
                    self.abort(output.request_id)
                output = replace(output, finish_reason="error", error="a fault on demand")
            wrong = self._fault == "wrong-answer" or (self._fault == "wrong-when-long" and output.request_id in self._long)
            outputs.append(self._shortened(_scrambled(output) if wrong else output))
        return outputs

    def _shortened(self, output: Any) -> Any:
        """`output`, ended where this version ends every answer."""
        name, tokens = output.request_id, output.tokens
        made = self._begun[name] = self._begun.get(name, 0) + len(tokens)
        if output.finish_reason:
            del self._begun[name]
        most = ENDS_AFTER.get(self._fault)
        if most is None or made < most or output.finish_reason or self._requests <= WARM_REQUESTS:
            return output
        self.abort(name)
        self._begun.pop(name, None)
        kept = max(0, most - (made - len(tokens)))
        return replace(output, tokens=tokens[:kept], logprobs=output.logprobs[:kept], finish_reason="stop")


def _scrambled(output: Any) -> Any:
    """Every token another one, in the answer and in what is said to be likely."""

    def other(item: Any) -> Any:
        if item is None:
            return None
        return replace(item, token=item.token // 2 + 7, top=tuple((token // 2 + 7, value) for token, value in item.top))

    return replace(
        output,
        tokens=tuple(token // 2 + 7 for token in output.tokens),
        logprobs=tuple(other(item) for item in output.logprobs),
        prompt_logprobs=tuple(other(item) for item in output.prompt_logprobs),
    )


class Misreading:
    """A tokenizer whose text is read in another encoding than it was written in."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, *arguments: Any, **options: Any) -> str:
        return str(self._tokenizer.decode(*arguments, **options)).encode().decode("latin-1")


def main() -> None:
    from inferstack_runtime import logs, server
    from inferstack_runtime.assembly import engine_loader
    from inferstack_runtime.config import load_config

    path = Path(sys.argv[sys.argv.index("--config") + 1])
    fault = FAULTS.get(json.loads(path.read_text())["engine"]["max_queue"], "")
    if fault == "never-ready":
        time.sleep(3600)
    config = load_config(path)
    real = engine_loader(config)

    def load(model: Any, report: Any) -> Any:
        if model.source == "file:///light":
            from tests.runtime.fake_engine import FakeEngine, fake_model

            loaded = fake_model(model.name, FakeEngine(40, 0.01, config.engine.max_queue, config.engine.max_sequences), model.context)
        else:
            loaded = real(model, report)
        if fault == "crash-looping":
            threading.Timer(3.0, os._exit, (1,)).start()
        if fault == "another-encoding":
            return replace(loaded, tokenizer=Misreading(loaded.tokenizer))
        return replace(loaded, engine=FaultyEngine(loaded.engine, fault)) if fault else loaded

    logs.set_up()
    sys.exit(server.run(config, load))


if __name__ == "__main__":
    main()
