"""Talks to one replica of a slot directly, past the gateway: short generations, a synthetic load, likely next tokens, its metrics.

The synthetic prompts carry a number that was never used before, so that no response cache answers in the engine's place.
"""

import contextlib
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx

from inferstack.environment import SlotName
from inferstack.platforms.prometheus_text import counters
from inferstack.promotion.measure import Counters, Histogram
from inferstack.promotion.platform import Exercise, Health, Seen

VERIFY_SECONDS = 10.0
"""A healthy replica ends a one-token generation within this, whatever it is busy with."""
REQUEST_SECONDS = 60.0
WIDTH = 4
"""Synthetic requests at a time."""
TOKENS = 8
"""Of a synthetic answer."""
OCCUPY_TOKENS = 64
"""Of an answer that only keeps a slot busy."""
OCCUPY_PAUSE_SECONDS = 0.2
LIMITED = 1.5
"""Longest wait for a limit of requests per minute to let one of promotion's own through, as a multiple of that request's own time."""
TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome. Rivers run from the mountains to the sea.",
    "def add(a, b):\n    return a + b\n\ndef multiply(a, b):\n    return a * b\n",
    "Water boils at one hundred degrees and freezes at zero. In winter the days are short and the nights are long.",
    "Once upon a time there was a little girl who lived in a village near the forest with her mother and her father.",
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen.",
)
"""Fixed texts whose next tokens two slots are compared on. Plain and predictable, so that a sound model of any format is sure of many."""
BEGINNINGS = tuple(text[: 2 * len(text) // 3].rstrip() for text in TEXTS)
"""Prompts of synthetic requests: cut off inside a sentence, so that a sound model has something to say."""


_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Timing:
    """One synthetic answer as its sender saw it, seconds."""

    error: str = ""
    ttft: float | None = None
    gaps: tuple[float, ...] = ()
    tokens: int = 0
    """Of an answer with any text; none are a fault only where the other slot gives some."""
    waited: float = 0.0
    """For a limit of requests per minute, before it was sent at last."""


REFUSED = "the key of promotion's own requests is none of this environment's, or may not ask: on a cluster INFERSTACK_KEY holds another"


@dataclass(frozen=True)
class TopTokens:
    """The most likely next token after each position of a text, and the text as the slot gives it back."""

    top: tuple[str, ...] | None = None
    """None where the engine gives no log-probabilities; `error` says what it answered."""
    text: str = ""
    error: str = ""


@dataclass
class _Stream:
    """What has come of a streamed answer so far."""

    times: list[float] = field(default_factory=list)
    tokens: int | None = None
    finished: bool = False
    error: str = ""

    def read(self, line: str) -> bool:
        """Take one line; False when nothing more is wanted."""
        if not line.startswith("data:"):
            return True
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self.finished = True
            return False
        event = json.loads(data)
        if "error" in event:
            self.error = f"error inside the stream: {event['error']}"
        elif any(choice.get("finish_reason") == "error" for choice in event.get("choices") or ()):
            self.error = "the answer ended with an error"
        elif any(choice.get("text") for choice in event.get("choices") or ()):
            self.times.append(time.perf_counter())
        self.tokens = (event.get("usage") or {}).get("completion_tokens", self.tokens)
        return not self.error

    def timing(self, started: float) -> Timing:
        if self.error or not self.finished:
            return Timing(self.error or "the stream was cut off")
        if not self.times:
            return Timing(ttft=time.perf_counter() - started)
        gaps = tuple(later - earlier for earlier, later in itertools.pairwise(self.times))
        return Timing(ttft=self.times[0] - started, gaps=gaps, tokens=len(self.times) if self.tokens is None else self.tokens)


class SlotClient:
    """One replica: its HTTP API at `client` (base URL set), its metrics at `metrics_url`."""

    def __init__(self, client: httpx.Client, metrics_url: str, models: Sequence[str], key: str | None) -> None:
        self._client = client
        self._metrics_url = metrics_url
        self.models = tuple(models)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def readiness(self) -> dict[str, Any]:
        """The body of /readyz with `ready` set by its status; `reason` says why when nobody answers."""
        try:
            answer = self._client.get("/readyz", timeout=2.0)
        except httpx.HTTPError as error:
            return {"ready": False, "reason": f"no answer: {error}"}
        try:
            body = answer.json()
        except ValueError:
            body = {}
        return {**(body if isinstance(body, dict) else {}), "ready": answer.status_code == 200}

    def verify(self) -> Health:
        """Ready, and every model answers one token."""
        ready = self.readiness()
        if not ready["ready"]:
            return Health(False, str(ready.get("reason") or "not ready"))
        for model in self.models:
            timing = self.generate(model, 1, VERIFY_SECONDS)
            if timing.error:
                return Health(False, f"{model}: {timing.error}")
        return Health(True)

    def generate(
        self,
        model: str,
        tokens: int = TOKENS,
        seconds: float = REQUEST_SECONDS,
        *,
        repeated: bool = False,
        label: str = "",
        turn: int = 0,
        stop: threading.Event | None = None,
    ) -> Timing:
        """One streamed completion on a prompt of its own (begun by `label` where one is given, on the text whose `turn` it is);
        `repeated`: always the same prompt, told apart by its seed alone. Waits, until `stop`, where only a limit of requests per minute is
        in the way."""
        prompt = BEGINNINGS[turn % len(BEGINNINGS)]
        body = _completion(model, tokens, f"{label or uuid.uuid4().hex[:8]} {prompt}") | {"stream_options": {"include_usage": True}}
        if repeated:
            body |= {"prompt": prompt, "seed": uuid.uuid4().int % 2**31}
        timing, waited = _when_let(lambda: self._streamed(body, seconds), seconds, stop)
        return replace(timing, waited=waited)

    def _streamed(self, body: dict[str, Any], seconds: float) -> tuple[Timing, float | None]:
        """What came of one request, and how long to wait before it can be sent again where it was only too many."""
        started, stream = time.perf_counter(), _Stream()
        try:
            with self._client.stream("POST", "/v1/completions", json=body, headers=self._headers, timeout=seconds) as answer:
                if answer.status_code != 200:
                    text = answer.read()[:200].decode(errors="replace")
                    refused = f"; {REFUSED}" if answer.status_code in (401, 403) else ""
                    return Timing(f"HTTP {answer.status_code} {text}{refused}"), _wait(answer)
                for line in answer.iter_lines():
                    if not stream.read(line):
                        break
                    if time.perf_counter() - started > seconds:
                        return Timing(f"not finished after {seconds:.0f} s"), None
        except (httpx.HTTPError, ValueError) as error:
            return Timing(f"{type(error).__name__}: {error}"), None
        return stream.timing(started), None

    def occupy(self, model: str, stop: threading.Event, begun: threading.Event) -> None:
        """Keep one request running until `stop`; `begun` is set once the first gives its first answer, be it a refusal."""
        while not stop.is_set():
            with contextlib.suppress(httpx.HTTPError):
                if self._occupy_once(model, stop, begun) == 200:
                    continue
            begun.set()
            stop.wait(OCCUPY_PAUSE_SECONDS)  # refused or cut off: no reason to knock all the time

    def _occupy_once(self, model: str, stop: threading.Event, begun: threading.Event) -> int:
        """The status of one such request; it is left as soon as `stop` is set, and the replica ends it then."""
        body = _completion(model, OCCUPY_TOKENS, f"{uuid.uuid4().hex[:8]} {BEGINNINGS[0]}")
        with self._client.stream("POST", "/v1/completions", json=body, headers=self._headers, timeout=VERIFY_SECONDS) as answer:
            for _ in answer.iter_raw():
                begun.set()
                if stop.is_set():
                    break
            return answer.status_code

    def top_tokens(self, model: str, text: str) -> TopTokens:
        """What the slot names as most likely after each position of `text`."""
        body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        try:
            answer, _ = _when_let(lambda: self._posted(body), REQUEST_SECONDS)
            if answer.status_code != 200:
                return TopTokens(error=f"HTTP {answer.status_code} {answer.text[:200]}")
            choice = answer.json()["choices"][0]
            top = choice["logprobs"]["top_logprobs"]
            named = tuple(max(options, key=lambda token: float(options[token])) if options else "" for options in top)
            return TopTokens(named, str(choice.get("text", ""))[: len(text)])
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return TopTokens(error=f"{type(error).__name__}: {error}")

    def _posted(self, body: dict[str, Any]) -> tuple[httpx.Response, float | None]:
        """Like `_streamed`, for an answer as a whole."""
        answer = self._client.post("/v1/completions", json=body, headers=self._headers, timeout=REQUEST_SECONDS)
        return answer, _wait(answer)

    def counters(self) -> Counters | None:
        """Its cumulative figures; None when its metrics do not answer."""
        try:
            answer = self._client.get(self._metrics_url, timeout=5.0)
            answer.raise_for_status()
        except httpx.HTTPError:
            return None
        return counters(answer.text)


def _when_let(send: Callable[[], tuple[_Value, float | None]], seconds: float, stop: threading.Event | None = None) -> tuple[_Value, float]:
    """What came of a request of up to `seconds`, sent again (until `stop`) where it was only one too many, and how long that took."""
    waited = 0.0
    while True:
        found, wait = send()
        if wait is None or waited + wait > LIMITED * seconds or (stop or threading.Event()).wait(wait):
            return found, waited
        waited += wait


def _wait(answer: httpx.Response) -> float | None:
    """Seconds after which a request that was one too many (429) may come again; None for every other answer."""
    if answer.status_code != 429:
        return None
    try:
        return max(0.1, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return 1.0


def _completion(model: str, tokens: int, prompt: str) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}


def exercise(clients: Sequence[SlotClient], n: int, *, repeated: bool = False) -> Exercise:
    """`n` synthetic requests over the replicas and their models in turn, WIDTH at a time; `repeated`: one prompt, one token."""
    if not clients or n <= 0:
        return Exercise(n, n, "no replica to send to") if n > 0 else Exercise(0, 0)
    targets = list(itertools.islice(itertools.cycle([(client, model) for client in clients for model in client.models]), n))
    started = time.perf_counter()

    def send(client: SlotClient, model: str) -> Callable[[threading.Event], Timing]:
        return lambda stop: client.generate(model, 1 if repeated else TOKENS, repeated=repeated, stop=stop)

    timings = together([send(*target) for target in targets], WIDTH)
    return told(timings, time.perf_counter() - started)


def together(work: Sequence[Callable[[threading.Event], Timing]], width: int) -> list[Timing]:
    """What comes of all, `width` at a time. An interruption sets the event that each was given, and begins no more of them."""
    stop = threading.Event()
    with ThreadPoolExecutor(width) as pool:
        futures = [pool.submit(each, stop) for each in work]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def told(timings: Sequence[Timing], seconds: float) -> Exercise:
    """What the senders of synthetic requests, `seconds` long, met together."""
    failures = [timing.error for timing in timings if timing.error]
    return Exercise(
        sent=len(timings),
        failures=len(failures),
        first_failure=failures[0] if failures else "",
        seconds=seconds,
        ttft=Histogram.of(timing.ttft for timing in timings if timing.ttft is not None),
        inter_token=Histogram.of(gap for timing in timings for gap in timing.gaps),
        tokens=sum(timing.tokens for timing in timings),
        waited=max((timing.waited for timing in timings), default=0.0),
    )


def seen_through(client: httpx.Client, n: int, key: str | None, header: tuple[str, str] | None = None) -> tuple[Seen, ...]:
    """Who answers `n` requests through the gateway, WIDTH at a time, every other one on a connection of its own."""
    sent = dict([header] if header else []) | ({"Authorization": f"Bearer {key}"} if key else {})

    def ask(index: int) -> Seen:
        extra = {"Connection": "close"} if index % 2 else {}
        try:
            answer = client.get("/v1/models", headers={**sent, **extra}, timeout=10.0)
        except httpx.HTTPError as error:
            return Seen(None, error=f"{type(error).__name__}: {error}")
        slot, generation = answer.headers.get("x-inferstack-slot"), answer.headers.get("x-inferstack-generation")
        if slot not in tuple(SlotName):
            return Seen(None, error=f"HTTP {answer.status_code} without a slot's identity")
        return Seen(SlotName(slot), int(generation) if generation and generation.isdigit() else None)

    with ThreadPoolExecutor(WIDTH) as pool:
        return tuple(pool.map(ask, range(n)))
