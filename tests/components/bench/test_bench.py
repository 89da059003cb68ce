"""The benchmark client, its shapes of load and its figures, against a small server in this process."""

import asyncio
import csv
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inferstack.bench.client import Sample, Target, ask
from inferstack.bench.compare import compare
from inferstack.bench.drive import closed_loop, poisson, ramp
from inferstack.bench.report import write
from inferstack.bench.servers import DidNotStart, NotInstalled, Recipe, llamacpp, running
from inferstack.bench.summary import percentiles, summarize
from inferstack.bench.workload import STANDARD, prompts


class Counting:
    """A server that answers each request with `tokens` pieces, `gap` seconds apart, and counts how many it serves at once."""

    def __init__(self) -> None:
        self.tokens, self.gap, self.status, self.cut = 3, 0.01, 200, False
        self.now = self.most = self.total = 0
        self.bodies: list[dict] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.total += 1
        self.most = max(self.most, self.now)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        self.bodies.append(json.loads(await reader.readexactly(length)))
        if self.status != 200:
            writer.write(f"HTTP/1.1 {self.status} No\r\nContent-Length: 4\r\n\r\nfull".encode())
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(self.tokens):
                await asyncio.sleep(self.gap)
                self._chunk(writer, {"choices": [{"text": "x"}]})
                await writer.drain()
            if not self.cut:
                self._chunk(writer, {"choices": [], "usage": {"completion_tokens": self.tokens, "prompt_tokens": 9}})
                writer.write(b"0\r\n\r\n")
        self.now -= 1
        writer.close()

    def _chunk(self, writer: asyncio.StreamWriter, event: dict) -> None:
        data = f"data: {json.dumps(event)}\n\n".encode()
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


@pytest.fixture
async def counting() -> AsyncIterator[tuple[Counting, Target]]:
    counting = Counting()
    server = await asyncio.start_server(counting.handle, "127.0.0.1", 0)
    yield counting, Target("127.0.0.1", server.sockets[0].getsockname()[1], "m", extra={"ignore_eos": True})
    server.close()


async def test_a_request_is_timed_piece_by_piece(counting: tuple[Counting, Target]) -> None:
    server, target = counting
    sample = await ask(target, "hello", 3)
    assert sample.ok
    assert (sample.tokens, sample.prompt_tokens, len(sample.pieces)) == (3, 9, 3)
    assert sample.ttft >= 0.009
    assert all(gap >= 0.005 for gap in sample.gaps)
    assert server.bodies[0] == {"model": "m", "max_tokens": 3, "temperature": 0, "stream": True, "prompt": "hello", "ignore_eos": True}


async def test_failures_are_samples_and_not_exceptions(counting: tuple[Counting, Target]) -> None:
    server, target = counting
    server.status = 429
    refused = await ask(target, "hello", 3)
    assert (refused.ok, refused.status, refused.error) == (False, 429, "HTTP 429: full")
    server.status, server.cut = 200, True
    assert not (await ask(target, "hello", 3)).ok
    gone = await ask(Target("127.0.0.1", 1, "m"), "hello", 3)
    assert "Connect" in str(gone.error)


async def test_a_closed_loop_keeps_its_number_of_clients_busy(counting: tuple[Counting, Target]) -> None:
    server, target = counting
    samples = await closed_loop(target, ["p"] * 12, 4, 3)
    assert len(samples) == server.total == 12
    assert server.most == 4


async def test_poisson_arrivals_do_not_wait_for_answers(counting: tuple[Counting, Target]) -> None:
    server, target = counting
    server.gap = 0.2
    samples = await poisson(target, ["p"] * 10, 200.0, 3, seed=1)
    assert len(samples) == 10
    assert server.most > 5


async def test_a_ramp_starts_clients_one_by_one(counting: tuple[Counting, Target]) -> None:
    _, target = counting
    samples = await ramp(target, ["p"], 3, 3, ramp_seconds=0.3, hold_seconds=0.1)
    begin = min(sample.sent for sample in samples)
    first = [sample for sample in samples if sample.sent - begin < 0.09]
    assert len(samples) > len(first) >= 1


def sample(sent: float, pieces: list[float], tokens: int, error: str | None = None, status: int = 200) -> Sample:
    return Sample(sent, tuple(pieces), pieces[-1] if pieces else sent + 1, tokens, 5, status, error)


def test_figures_follow_from_the_samples() -> None:
    summary = summarize(
        [sample(0.0, [0.5, 1.0, 2.0], 3), sample(1.0, [2.0, 4.0], 2), sample(1.0, [], 0, "HTTP 429: full", 429)],
        client_cpu_seconds=0.4,
        cores=2,
    )
    assert (summary.requests, summary.failed, summary.limited) == (3, 1, 1)
    assert summary.seconds == 4.0
    assert summary.output_tokens_per_second == pytest.approx(5 / 4)
    assert summary.ttft["p50"] == 0.5
    assert summary.ttft["p99"] == 1.0
    assert summary.inter_token["p95"] == 2.0
    assert summary.client_cpu_share == pytest.approx(0.05)
    assert summary.errors == ("HTTP 429: full",)


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles([float(i) for i in range(1, 101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "mean": 50.5}
    assert percentiles([]) == {}


@pytest.mark.parametrize("name", STANDARD)
def test_prompts_have_their_length_and_follow_the_seed(name: str) -> None:
    workload = STANDARD[name]
    made = prompts(workload, 3, seed=4)
    assert made == prompts(workload, 3, seed=4) != prompts(workload, 3, seed=5)
    assert {len(text.split()) for text in made} == {workload.prompt + workload.shared}
    assert len(set(made)) == 3
    if workload.shared:
        assert len({tuple(text.split()[: workload.shared]) for text in made}) == 1


def test_results_are_written_as_json_and_csv_and_plot(tmp_path: Path) -> None:
    row = {"server": "a", "clients": 1, "output_tokens_per_second": 2.0, "ttft": {"p50": 0.1}, "errors": ("one", "two")}
    written = write(tmp_path / "deep" / "result", {"machine": "here"}, [row, row | {"clients": 8}])
    assert json.loads(written[0].read_text())["about"] == {"machine": "here"}
    lines = list(csv.DictReader(written[1].read_text().splitlines()))
    assert [line["clients"] for line in lines] == ["1", "8"]
    assert lines[0]["ttft.p50"] == "0.1"
    assert lines[0]["errors"] == "one; two"
    assert written[2].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_server_that_ends_shows_its_last_words() -> None:
    recipe = Recipe("broken", ("/bin/sh", "-c", "echo no such model >&2; exit 7"), Target("", 0, "m"), timeout_seconds=20)
    with pytest.raises(DidNotStart, match=r"(?s)broken.*code 7.*no such model"), running(recipe):
        pass


@pytest.mark.parametrize(("prompts_served", "rounds"), [(0, 0), (1, 0), (3, 1)])
def test_a_server_that_ends_on_the_way_is_named_and_the_others_are_measured(tmp_path: Path, prompts_served: int, rounds: int) -> None:
    command = (sys.executable, str(Path(__file__).parent / "peer.py"), str(tmp_path / "written"), "serve", "--port", "{port}")
    recipes = [Recipe(name, command, Target("", 0, "m"), timeout_seconds=20) for name in ("first", "last")]
    recipes.insert(1, Recipe("frail", command, Target("", 0, "m"), environment={"PEER_PROMPTS": str(prompts_served)}, timeout_seconds=20))
    absent: dict[str, str] = {}
    rows = compare(recipes, STANDARD["100-64"], [1], 3, absent=absent.__setitem__)
    measured = [row.server for row in rows]
    assert [measured.count(name) for name in ("first", "frail", "last")] == [3, rounds, 3]
    assert all(row.summary.failed == 0 for row in rows)
    assert re.search(r"(?s)frail: ended.*code 4.*no such instruction", absent["frail"])


def test_a_missing_peer_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match=r"xllamacpp: no .*none"):
        llamacpp("llama.cpp", tmp_path / "none", tmp_path / "model.gguf")
