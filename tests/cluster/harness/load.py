"""Streaming load that counts what a client lost: requests without an answer, and streams that ended before their end."""

import asyncio
import collections
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from harness.keys import KEY

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it. Times are epoch seconds; ``failure`` is empty for a whole answer."""

    sent: float
    ended: float
    slot: str
    generation: str
    pieces: int
    failure: str


@dataclass
class Load:
    """``clients`` clients that send one streaming request after another, each on a connection that it keeps, until ``stop``."""

    url: str
    clients: int = 3
    tokens: int = 12
    headers: Mapping[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=90)

    @property
    def lost(self) -> list[Answer]:
        return [one for one in self.answers if one.failure]

    @property
    def by_slot(self) -> collections.Counter[str]:
        return collections.Counter(one.slot for one in self.answers)

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Wait until ``count`` more requests were answered."""
        target = len(self.answers) + count
        until = time.monotonic() + seconds
        while len(self.answers) < target:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(self.answers)} of {target} requests in {seconds:g} s; last failures: {self.lost[-3:]}")
            time.sleep(0.05)

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=httpx.Timeout(60, connect=10), limits=httpx.Limits(max_connections=self.clients)) as client:
            await asyncio.gather(*(self._client(client, number) for number in range(self.clients)))

    async def _client(self, client: httpx.AsyncClient, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            self.answers.append(
                await stream(client, self.url, f"Client {number}, question {count}: say something.", self.tokens, self.headers)
            )


async def stream(client: httpx.AsyncClient, url: str, prompt: str, tokens: int, more: Mapping[str, str]) -> Answer:
    """One streamed chat completion, checked for its end: a finish reason and `[DONE]`."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "stream": True, "temperature": 0}
    headers = {"authorization": f"Bearer {KEY}"} | dict(more)
    sent = time.time()
    slot = generation = failure = ""
    pieces = 0
    finished = done = False
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
            slot = answer.headers.get("x-inferstack-slot", "")
            generation = answer.headers.get("x-inferstack-generation", "")
            if answer.status_code != 200:
                failure = f"status {answer.status_code}: {(await answer.aread())[:200].decode(errors='replace')}"
            else:
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data: ")
                    if data == "[DONE]":
                        done = True
                    elif line.startswith("data: "):
                        choice = (json.loads(data).get("choices") or [{}])[0]
                        pieces += bool(choice.get("delta", {}).get("content"))
                        finished = finished or bool(choice.get("finish_reason"))
                if not (done and finished):
                    failure = f"truncated after {pieces} pieces"
    except (httpx.HTTPError, ValueError) as error:
        failure = f"{type(error).__name__}: {error}"
    return Answer(sent, time.time(), slot, generation, pieces, failure)
