"""How answers leave over a connection: whole behind gateways, and never cut for a client that is still there."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import running

from inferstack_runtime.api.http import Stream
from inferstack_runtime.api.routing import Route
from inferstack_runtime.protocol import GATEWAY_SECONDS

TIERS = {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}


def message(prompt="hello", path=b"/v1/completions", **body):
    body = json.dumps({"model": "fake", "prompt": prompt, "temperature": 0, **body}).encode()
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body), body


@contextmanager
def connected(run):
    with socket.create_connection(("127.0.0.1", run.event("listening")["port"]), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client


def whole(client, end=b"0\r\n\r\n"):
    """The pieces of an answer as they came, and the seconds until the first."""
    begin, pieces = time.monotonic(), [client.recv(2**20)]
    seconds = time.monotonic() - begin
    while not b"".join(pieces).endswith(end):
        pieces.append(client.recv(2**20))
        assert pieces[-1], f"the connection ended after {b''.join(pieces)[-200:]!r}"
    return pieces, seconds


@pytest.mark.parts
def test_the_head_of_a_stream_leaves_with_its_first_event(start):
    with start("--step-seconds", "0.3") as run, connected(run) as client:
        run.event("ready")
        client.sendall(b"".join(message(stream=True, max_tokens=5)))
        pieces, seconds = whole(client)
    assert seconds > 0.2
    assert pieces[0].startswith(b"HTTP/1.1 200 ")
    assert b"\r\ndata: {" in pieces[0]


@pytest.mark.parts
def test_a_short_answer_from_the_cache_leaves_in_one_piece_and_a_long_one_not_before_the_gateway_is_done_with_the_request(start):
    with start("--length", "4000", access={"tiers": TIERS}) as run, connected(run) as client:
        run.event("ready")
        for tokens, most_pieces in ((5, 1), (4000, None)):
            head, body = message(stream=True, max_tokens=tokens)
            client.sendall(head + body)
            whole(client)
            for _ in range(20):
                client.sendall(head)
                client.sendall(body)
                pieces, seconds = whole(client)
                assert b"x-cache: hit" in pieces[0]
                assert most_pieces is None or len(pieces) <= most_pieces
                assert most_pieces is not None or seconds > GATEWAY_SECONDS / 2


@pytest.mark.parts
@pytest.mark.parametrize(("tokens", "words"), [(8, 40), (3000, 3000)])
def test_no_stream_is_cut_behind_traefik(start, tmp_path, tokens, words):
    with start("--step-seconds", "0.001", "--length", str(words), access={"tiers": TIERS}) as run:
        run.event("ready")
        with traefik(tmp_path, run.event("listening")["port"]) as url:
            lost, hits = asyncio.run(_load(url, clients=8, each=90, tokens=tokens))
        answered = [json.loads(line) for line in run.errors if '"message":"request"' in line]
    assert lost == []
    assert hits > 600
    assert {line["status"] for line in answered} == {200}


async def _load(url, clients, each, tokens):
    lost, hits = [], 0

    async def client(number, http):
        nonlocal hits
        for turn in range(each):
            body = {"model": "fake", "prompt": f"{(number + turn) % 3}", "temperature": 0, "stream": True, "max_tokens": tokens}
            try:
                async with http.stream("POST", f"{url}/v1/completions", json=body) as answer:
                    hits += answer.headers.get("x-cache") == "hit"
                    text = await answer.aread()
                    if answer.status_code != 200 or not text.endswith(b"data: [DONE]\n\n"):
                        lost.append(text[-200:])
            except httpx.HTTPError as error:
                lost.append(repr(error))

    async with httpx.AsyncClient(timeout=60) as http:
        await asyncio.gather(*(client(number, http) for number in range(clients)))
    return lost, hits


@contextmanager
def traefik(folder, port):
    """A real Traefik in front of a port; skipped where the development environment has none."""
    program = Path(sys.executable).parent / "traefik"
    if not program.exists():
        pytest.skip("traefik is not installed: scripts/setup development")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        front = probe.getsockname()[1]
    routes = {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "runtime", "entryPoints": ["web"]}},
        "services": {"runtime": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{port}"}]}}},
    }
    file = folder / "routes.json.yaml"
    file.write_text(json.dumps({"http": routes}))
    command = [str(program), f"--entrypoints.web.address=127.0.0.1:{front}", f"--providers.file.filename={file}", "--log.level=ERROR"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url, until = f"http://127.0.0.1:{front}", time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"{url}/livez").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert time.monotonic() < until, "traefik does not pass requests on"
            time.sleep(0.1)
        yield url
    finally:
        child.terminate()
        child.wait(20)


@pytest.mark.parts
def test_a_connection_that_a_gateway_opened_ahead_stays_open_past_the_time_for_headers(start):
    with start(http={"header_seconds": 0.5}) as run, connected(run) as client:
        run.event("ready")
        time.sleep(1.2)
        client.sendall(b"".join(message(max_tokens=2)))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        time.sleep(1.2)
        client.sendall(b"".join(message(max_tokens=2)))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parts
def test_a_body_that_comes_after_its_answer_leaves_the_connection_usable(start):
    with start(http={"header_seconds": 0.5}) as run, connected(run) as client:
        run.event("ready")
        head, body = message(path=b"/v1/nothing")
        client.sendall(head)
        assert client.recv(65536).startswith(b"HTTP/1.1 404 ")
        client.sendall(body[:10])
        time.sleep(0.2)
        client.sendall(body[10:])
        time.sleep(1.2)
        client.sendall(b"".join(message(max_tokens=2)))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parts
@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_streams_to_clients_with_slow_bodies_on_reused_connections_are_whole(start, pause):
    with start("--step-seconds", "0.002", access={"tiers": TIERS}) as run, connected(run) as client:
        run.event("ready")
        for turn in range(10):
            head, body = message(prompt=f"{turn}", stream=True, max_tokens=6)
            data = head + body
            if turn % 3 == 2:
                data = data.replace(b"Host: x\r\n", b"Host: x\r\nExpect: 100-continue\r\n")
            for begin in range(0, len(data), 40):
                client.sendall(data[begin : begin + 40])
                time.sleep(pause)
            pieces, _ = whole(client)
            assert b"".join(pieces).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        statuses = [json.loads(line)["status"] for line in run.errors if '"message":"request"' in line]
    assert set(statuses) == {200}


@pytest.mark.parts
def test_two_requests_at_once_on_one_connection_are_both_answered_whole(start):
    with start("--step-seconds", "0.02") as run, connected(run) as client:
        run.event("ready")
        first, second = message(prompt="1", stream=True, max_tokens=6), message(prompt="2", stream=True, max_tokens=6)
        client.sendall(b"".join(first + second))
        received = b""
        while received.count(b"0\r\n\r\n") < 2:
            received += client.recv(65536)
    assert received.count(b"data: [DONE]") == 2


async def test_a_stream_that_fails_in_the_server_is_not_booked_as_a_client_that_left(caplog):
    async def broken(service, request):
        async def events():
            yield b"data: 1\n\n"
            raise ZeroDivisionError

        return Stream(events())

    from inferstack_runtime.api.app import App

    caplog.set_level("INFO", logger="inferstack_runtime.access_log")
    async with running() as run:
        app = App(run.service, (Route("GET", "/broken", broken, access="open"),))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://runtime")
        with pytest.raises(ZeroDivisionError):
            await client.get("/broken")
        await client.aclose()
    lines = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("route") == "/broken"]
    assert [line["status"] for line in lines] == [500]
