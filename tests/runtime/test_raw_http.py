"""HTTP that was cut, spliced and lied about, made by Hypothesis: answers stay whole, the process lives, streams beside it go on."""

import json
import re
import socket
import threading
import time

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.parts, pytest.mark.timeout(240)]
SECONDS = 0.3
BODY = json.dumps({"model": "fake", "prompt": "x", "max_tokens": 2}).encode()
STREAM = json.dumps({"model": "fake", "prompt": "x", "max_tokens": 2, "stream": True}).encode()


def message(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: x", *headers, b"", body])


def in_chunks(body: bytes, size: int = 7) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


LINE = b"POST /v1/completions HTTP/1.1"
REQUESTS = (
    message(b"GET /health HTTP/1.1"),
    message(b"HEAD /health HTTP/1.1"),
    message(b"GET http://x/health HTTP/1.1"),
    message(b"OPTIONS * HTTP/1.1"),
    message(LINE, b"Content-Type: application/json", b"Content-Length: %d" % len(BODY), body=BODY),
    message(LINE, b"Content-Length: %d" % len(STREAM), body=STREAM),
    message(LINE, b"Transfer-Encoding: chunked", body=in_chunks(BODY)),
    message(LINE, b"Expect: 100-continue", b"Content-Length: %d" % len(BODY), body=BODY),
    message(LINE, b"Expect: 200-maybe", b"Content-Length: %d" % len(BODY), body=BODY),
    message(LINE, b"Connection: close", b"Content-Length: %d" % len(STREAM), body=STREAM),
    message(
        b"GET /v1/models HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA==", b"Sec-WebSocket-Version: 13"
    ),
    message(LINE, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA", b"Content-Length: 0"),
)
LIES = (
    (b"Content-Length: ", b"Content-Length: 1"),
    (b"Content-Length: ", b"Content-Length: -"),
    (b"Content-Length: ", b"Content-Length: +"),
    (b"Content-Length: ", b"Content-Length: 0x"),
    (b"Content-Length: ", b"Content-Length: 99999999999999999999"),
    (b"Content-Length: ", b"Content-Length : "),
    (b"Content-Length: ", b"Transfer-Encoding: chunked\r\nContent-Length: "),
    (b"Content-Length: ", b"Content-Length: 3\r\nContent-Length: "),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 5"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, identity"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding:\x0bchunked"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    (b"\r\n7\r\n", b"\r\n8\r\n"),
    (b"\r\n7\r\n", b"\r\n6\r\n"),
    (b"\r\n7\r\n", b"\r\n-7\r\n"),
    (b"\r\n7\r\n", b"\r\n0x7\r\n"),
    (b"\r\n7\r\n", b"\r\nffffffffffffffff7\r\n"),
    (b"\r\n7\r\n", b"\r\n7;" + b"a" * 5000 + b"\r\n"),
    (b"\r\n0\r\n\r\n", b"\r\n0\r\nX: y\r\n\r\n"),
    (b"\r\n0\r\n\r\n", b"\r\n0\r\n"),
    (b"Host: x", b"Host: x\r\nHost: y"),
    (b"Host: x\r\n", b""),
    (b"Host: x", b"Host: x\r\n folded: line"),
    (b"Host: x", b"H\x00st: x"),
    (b"Host: x", b"Host: x\r\nX: \xff\xfe"),
    (b"HTTP/1.1", b"HTTP/1.0"),
    (b"HTTP/1.1", b"HTTP/2.0"),
    (b"HTTP/1.1", b"HTTP/9.9"),
    (b" HTTP/1.1", b""),
    (b"/v1/completions", b"http://x:99999/v1/completions"),
    (b"/v1/completions", b"//v1/completions"),
    (b"/v1/completions", b"/v1/%00completions?a=%zz"),
    (b"\r\n", b"\n"),
    (b"\r\n", b"\r"),
    (b"\r\n", b"\r\r\n"),
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, tuple[int, ...], bool]:
    """Requests one behind another, some of them changed; where the bytes are divided between packets; whether the client then waits
    without ending its side, until the server has had enough."""
    parts = draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3))
    data = b"".join(parts)
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(("lie", "lie", "lie", "cut", "splice", "twice", "flip")))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        if kind == "lie":
            old, new = draw(st.sampled_from(LIES))
            data = data[:at] + data[at:].replace(old, new, 1) if old in data[at:] else data.replace(old, new, 1)
        elif kind == "cut":
            data = data[:at]
        elif kind == "splice":
            other = draw(st.sampled_from(REQUESTS))
            begin = draw(st.integers(0, len(other) - 1))
            data = data[:at] + other[begin : begin + draw(st.integers(1, 60))] + data[at:]
        elif kind == "twice":
            lines = data.split(b"\r\n")
            index = draw(st.integers(0, len(lines) - 1))
            data = b"\r\n".join([*lines[:index], lines[index], *lines[index:]])
        elif data:
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=3))
    return data, tuple(sorted(cuts)), draw(st.integers(0, 15)) == 15


def talk(port: int, data: bytes, cuts: tuple[int, ...], waits: bool) -> bytes:
    """What comes back until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
                client.sendall(data[begin:end])
            if not waits:
                client.shutdown(socket.SHUT_WR)
            while more := client.recv(65536):
                received += more
        except (ConnectionResetError, BrokenPipeError):
            pass
        except OSError as error:
            if error.errno != 107:  # the server had closed before the client ended its side
                raise
    return received


def statuses(received: bytes) -> list[int]:
    """Status of each final answer; AssertionError for anything that is not whole answers one behind another."""
    found = []
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        line = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [ -~]*", first)
        assert end, f"half a head: {head[-200:]!r}"
        assert line, f"no status line: {first[:200]!r}"
        assert all(re.fullmatch(rb"[!-9;-~]+: ?[ -~]*", one) for one in lines), head
        headers = dict(one.lower().split(b":", 1) for one in lines)
        received = rest
        if int(line[1]) < 200:
            continue
        found.append(int(line[1]))
        if b"transfer-encoding" in headers:
            size = 1
            while size:
                given, end, rest = received.partition(b"\r\n")
                size = int(given, 16)
                assert rest[size : size + 2] == b"\r\n", f"half a chunk: {received[-200:]!r}"
                received = rest[size + 2 :]
        elif b"content-length" in headers:
            if received and not received.startswith(b"HTTP/1.1 "):  # HEAD has no body
                size = int(headers[b"content-length"])
                assert len(received) >= size, f"half a body: {received[-200:]!r}"
                received = received[size:]
        else:
            received = b""  # it ends with its connection
    return found


class Beside:
    """One stream after another, as long as the block lasts."""

    def __init__(self, url: str) -> None:
        self.url, self.whole, self.broken, self.over = url, 0, [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        body = {"model": "fake", "prompt": "y", "stream": True, "max_tokens": 50}
        with httpx.Client(timeout=30) as client:
            while not self.over.is_set():
                try:
                    with client.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
                        lines = list(answer.iter_lines())
                except httpx.HTTPError as error:
                    self.broken.append(repr(error))
                    continue
                if answer.status_code == 200 and "data: [DONE]" in lines:
                    self.whole += 1
                else:
                    self.broken.append(f"{answer.status_code}: {lines[-2:]}")

    def __enter__(self) -> "Beside":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(60)


def test_conversations_that_no_client_holds_do_no_harm(start):
    tiers = {"default": {"requests_per_minute": 10**7, "tokens_per_minute": 10**9}}
    http = {"header_seconds": SECONDS, "body_seconds": SECONDS, "keep_alive_seconds": 1}
    with start("--step-seconds", "0.002", "--length", "50", access={"tiers": tiers}, http=http) as run:
        run.event("ready")
        beside = Beside(run.url)
        port = run.event("listening")["port"]

        @settings(
            max_examples=300,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(conversations())
        def converse(conversation: tuple[bytes, tuple[int, ...], bool]) -> None:
            received = talk(port, *conversation)
            found = statuses(received)
            assert all(200 <= status < 500 for status in found), (found, received[:300])
            assert b"Traceback" not in received
            assert run.process.poll() is None

        with beside:
            converse()
        until = time.monotonic() + 5
        while httpx.get(f"{run.url}/readyz").json()["in_flight"] and time.monotonic() < until:
            time.sleep(0.05)
        assert httpx.get(f"{run.url}/readyz").json()["in_flight"] == 0
    assert beside.whole > 5
    assert beside.broken == []
    assert [line for line in run.errors if '"level": "error"' in line or "Traceback" in line] == []
