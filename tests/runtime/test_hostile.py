# ruff: noqa: E501
"""Input that no honest client sends: the process lives, its memory returns, others are served."""

import random
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.parts

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def request(body, head=HEAD, connection=b"close"):
    return head + b"Connection: " + connection + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def chat(content):
    return b'{"model": "fake", "messages": [{"role": "user", "content": ' + content + b"}]}"


CASES = {
    "broken JSON": (request(b'{"model": '), 400),
    "no JSON": (request(b"\x00\x01\x02"), 400),
    "an array": (request(b"[]"), 400),
    "bad UTF-8": (request(chat(b'"\xff\xfe"')), 400),
    "a lone surrogate": (request(chat(b'"\\ud800"')), 400),
    "a lone surrogate as a key": (request(b'{"model": "fake", "messages": [], "\\udfff": 1}'), 400),
    "deep arrays": (request(chat(b"[" * 200_000 + b"]" * 200_000)), 400),
    "deep objects": (request(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), 400),
    "a deep schema": (request(b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "tools": ' + b"[" * 900 + b"]" * 900 + b"}"), 400),
    "huge numbers": (request(b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1e400}'), 400),
    "not a number": (request(b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}'), 400),
    "wrong types": (request(b'{"model": 5, "messages": {"role": 1}}'), 400),
    "10 MB": (request(chat(b'"' + b"x" * 10_000_000 + b'"')), 413),
    "10 MB in chunks": (HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 160 + b"0\r\n\r\n", 413),
    "2000 headers": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(2000)) + b"\r\n", 431),
    "a huge header": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", 431),
    "a huge path": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "two lengths": (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "length and chunks": (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "an unknown method": (b"BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "an escaped path": (b"GET /%ff%fe/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "a websocket": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n", 200),
}  # fmt: skip


def send(port, data, seconds=10):
    """The status of the answer, or None when the connection ended without one."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        try:
            client.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while b"\r\n\r\n" not in received:
                more = client.recv(65536)
                if not more:
                    break
                received += more
        except (ConnectionResetError, TimeoutError):
            pass
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.1 ") else None


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.fixture
def hardened(start):
    tiers = {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}
    with start(
        "--step-seconds", "0.005", "--length", "4000", access={"tiers": tiers}, http={"header_seconds": 1, "body_seconds": 1}
    ) as run:
        run.event("ready")
        yield run


def test_hostile_requests_are_refused_and_a_stream_beside_them_goes_on(hardened):
    port = hardened.event("listening")["port"]
    stream = []

    def read():
        body = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 600}
        with httpx.stream("POST", f"{hardened.url}/v1/chat/completions", json=body, timeout=60) as answer:
            stream.extend(answer.iter_lines())

    reader = threading.Thread(target=read)
    reader.start()
    results = {name: (send(port, data), expected) for name, (data, expected) in CASES.items()}
    wrong = {name: pair for name, pair in results.items() if pair[0] != pair[1] and not (pair[0] is None and pair[1] in (413, 431))}
    assert wrong == {}
    assert hardened.process.poll() is None
    reader.join(60)
    assert "data: [DONE]" in stream


def test_random_bytes_do_no_harm_and_memory_returns(hardened):
    port = hardened.event("listening")["port"]
    chance = random.Random(7)
    valid = request(chat(b'"hello"'), connection=b"keep-alive")
    for _ in range(40):
        send(port, request(chat(b'"' + b"x" * 3_000_000 + b'"')))
    before = resident(hardened.process.pid)
    for turn in range(400):
        data = bytearray(valid)
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = chance.randrange(1, len(data)) if turn % 2 else len(data)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(bytes(data[:cut]))
            if turn % 3 == 0:
                client.shutdown(socket.SHUT_WR)
    for _ in range(40):
        send(port, request(chat(b'"' + b"x" * 3_000_000 + b'"')))
    time.sleep(1.5)
    assert httpx.get(f"{hardened.url}/readyz").json()["in_flight"] == 0
    assert resident(hardened.process.pid) < before + 100 * 2**20


def test_a_hundred_slow_clients_do_not_stop_a_quick_one(hardened):
    port = hardened.event("listening")["port"]
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for client in slow:
        client.sendall(HEAD)
    begin = time.monotonic()
    answer = httpx.post(f"{hardened.url}/v1/completions", json={"model": "fake", "prompt": "x", "max_tokens": 2}, timeout=10)
    assert answer.status_code == 200
    assert time.monotonic() - begin < 5
    time.sleep(1.5)
    for client in slow:
        client.settimeout(5)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
        client.close()
