"""HTTP as other clients speak it: older, half-closed, in chunks, with another protocol on offer."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.parts


def request(stream=False, version=b"1.1", tokens=5, **more):
    """A whole request; `more` are headers, `_` for `-`."""
    body = json.dumps({"model": "fake", "prompt": "x", "max_tokens": tokens, "stream": stream}).encode()
    head = [b"POST /v1/completions HTTP/%s" % version, b"Host: x", b"Content-Type: application/json"]
    head += [f"{name.replace('_', '-')}: {value}".encode() for name, value in more.items()]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


@pytest.fixture
def server(start):
    with start(
        "--step-seconds",
        "0.05",
        "--length",
        "500",
        access={"tiers": {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}},
    ) as run:
        run.event("ready")
        yield run


def talk(run, data, half=True):
    """What comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", run.event("listening")["port"]), timeout=10) as client:
        client.sendall(data)
        if half:
            client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def answers(received):
    """Status and body of each final answer; informational ones are passed over, as clients must."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
        if status < 200:
            received = rest
            continue
        if b"content-length" in headers:
            length = int(headers[b"content-length"])
            body, received = rest[:length], rest[length:]
        elif b"transfer-encoding" in headers:
            body = b""
            while True:
                size, _, rest = rest.partition(b"\r\n")
                body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
                if int(size, 16) == 0:
                    break
            received = rest
        else:
            body, received = rest, b""
        found.append((status, body, headers))
    return found


def in_flight(run):
    text = httpx.get(run.metrics_url).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith("inferstack_in_flight_requests"))


def test_a_client_that_sends_no_more_still_gets_its_answers(server):
    ((status, body, _),) = answers(talk(server, request()))
    assert status == 200
    assert json.loads(body)["usage"]["completion_tokens"] == 5
    ((status, body, _),) = answers(talk(server, request(stream=True)))
    assert body.endswith(b"data: [DONE]\n\n")
    both = answers(talk(server, request() + request(stream=True)))
    assert [status for status, _, _ in both] == [200, 200], "two requests at once"
    assert both[1][1].endswith(b"data: [DONE]\n\n")
    ((status, body, _),) = answers(talk(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert json.loads(body)["status"] == "ok", "an answer that is ready at once is not lost either"
    assert answers(talk(server, request()[:-3])) == [], "half a request has no answer"


ELSEWHERE = """import runpy, sys
import inferstack_runtime.halfclose as halfclose
halfclose.CAN_TELL = False
sys.argv[0] = {!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("stream", [False, True])
def test_where_the_system_does_not_tell_a_client_that_left_the_next_write_does(start, stream):
    """Other systems than Linux: half-closing clients are answered there too, and those that left free their slot."""
    engine = str(Path(__file__).parent / "fake_engine.py")
    program = [sys.executable, "-c", ELSEWHERE.format(engine)]
    with start("--step-seconds", "0.05", "--length", "500", program=program) as run:
        run.event("ready")
        data = request(stream=stream, tokens=2000).replace(b'"prompt": "x"', b'"prompt": "y"')
        found = answers(talk(run, request(stream=stream)))
        assert [status for status, _, _ in found] == [200]
        client = socket.create_connection(("127.0.0.1", run.event("listening")["port"]))
        client.sendall(data)
        time.sleep(0.3)
        assert in_flight(run) == 1
        client.close()
        until = time.monotonic() + 2
        while in_flight(run) and time.monotonic() < until:
            time.sleep(0.02)
        assert in_flight(run) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_left_frees_its_slot_at_once(server, stream):
    client = socket.create_connection(("127.0.0.1", server.event("listening")["port"]))
    client.sendall(request(stream=stream, tokens=2000).replace(b'"prompt": "x"', b'"prompt": "y"'))
    time.sleep(0.3)
    assert in_flight(server) == 1
    client.close()
    time.sleep(0.15)
    assert in_flight(server) == 0


def test_http_1_0_gets_no_chunks(server):
    for more in ({}, {"Connection": "keep-alive"}):
        received = talk(server, request(version=b"1.0", **more), half=False)
        ((status, body, headers),) = answers(received)
        assert (status, json.loads(body)["object"]) == (200, "text_completion")
    received = talk(server, request(stream=True, version=b"1.0"), half=False)
    ((status, body, headers),) = answers(received)
    assert b"transfer-encoding" not in headers
    assert headers[b"connection"] == b"close"
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b"data: ") >= 5


def test_a_body_in_chunks_with_extensions_and_trailers(server):
    body = request().partition(b"\r\n\r\n")[2]
    chunks = b"".join(b"%x;name=value\r\n%s\r\n" % (len(body[at : at + 9]), body[at : at + 9]) for at in range(0, len(body), 9))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    ((status, answer, _),) = answers(talk(server, head + chunks + b"0\r\nTrailer: x\r\n\r\n"))
    assert status == 200
    assert json.loads(answer)["usage"]["completion_tokens"] == 5


def test_a_body_is_sent_after_100_continue(server):
    whole = request(Expect="100-continue")
    head, _, body = whole.partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.event("listening")["port"]), timeout=10) as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("other", ["h2c", "websocket"])
def test_a_client_that_offers_another_protocol_is_answered_in_this_one(server, other):
    """Java's client and `curl --http2` offer h2c with every request."""
    data = request(Connection="Upgrade, HTTP2-Settings", Upgrade=other, HTTP2_Settings="AAMAAABkAAQAAP__")
    for pieces in (data, request() + data, data + request()):
        found = answers(talk(server, pieces))
        assert {status for status, _, _ in found} == {200}
        assert len(found) == pieces.count(b"POST ")
    assert "No supported WebSocket" not in "".join(server.errors)


def test_methods_that_a_path_does_not_have_say_which_it_has(server):
    for method in ("OPTIONS", "TRACE", "PATCH", "PROPFIND"):
        ((status, _, headers),) = answers(talk(server, f"{method} /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
        assert (status, headers[b"allow"]) == (405, b"POST")
    received = talk(server, b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length: " in head
    assert body == b""
    assert talk(server, b"CONNECT host:443 HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")


CLIENTS = Path(__file__).parent / "clients"
PROGRAMS = {
    "go": ["go", "run", str(CLIENTS / "client.go")],
    "node": ["node", str(CLIENTS / "client.mjs")],
    "java": ["java", str(CLIENTS / "Client.java")],
}


@pytest.mark.parametrize("language", sorted(PROGRAMS))
def test_the_own_client_of_another_language(server, language, tmp_path):
    if shutil.which(language) is None:
        pytest.skip(f"{language} is not on PATH")
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GO111MODULE": "off", "GOCACHE": str(tmp_path / "go")}
    ran = subprocess.run([*PROGRAMS[language], server.url], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split("\n")[:4] == ["200 3", "200 3", "200 3", "given up"]
    time.sleep(0.2)
    assert in_flight(server) == 0


@pytest.mark.parametrize("options", [[], ["--http1.0"], ["--http2"], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]])
def test_curl(server, options):
    if shutil.which("curl") is None:
        pytest.skip("curl is not on PATH")
    command = ["curl", "-sSN", "--max-time", "10", *options, "-H", "Content-Type: application/json", f"{server.url}/v1/completions"]
    command += ["-d", json.dumps({"model": "fake", "prompt": "x", "max_tokens": 2, "stream": True})]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if "option" in ran.stderr and "--http2" in options:
        pytest.skip("this curl has no HTTP/2")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("data: ") == 3
    assert ran.stdout.endswith("data: [DONE]\n\n")
