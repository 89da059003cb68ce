"""Clients that speak HTTP in other ways than ours do: through real Envoy, while all traffic moves and the old slot is stopped at once."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

import pytest

from tests.components.promotion.proof.arena import Arena, arena
from tests.components.promotion.proof.scenarios import QUICK

pytestmark = pytest.mark.parts

END = b"data: [DONE]"
Client = Callable[[Arena], bool]


def asked(made: Arena, *, version: str = "1.1", extra: str = "", stream: bool = False, words: int = 1) -> tuple[bytes, bytes]:
    """Head and body of a request for 24 tokens; nothing stands for an answer of a cache."""
    prompt = f"{time.perf_counter_ns()} " + "word " * words
    body = json.dumps({"model": made.environment.models[0].name, "prompt": prompt, "max_tokens": 24, "stream": stream}).encode()
    sized = "" if "chunked" in extra else f"Content-Length: {len(body)}\r\n"
    host = "" if version == "1.0" else "Host: x\r\n"
    head = f"POST /v1/completions HTTP/{version}\r\n{host}Authorization: Bearer {made.machine.api_key()}\r\n{extra}{sized}"
    return f"{head}Content-Type: application/json\r\n\r\n".encode(), body


def connected(made: Arena, most: int | None = None) -> socket.socket:
    made_socket = socket.socket()
    made_socket.settimeout(60)
    if most:
        made_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, most)
    made_socket.connect(("127.0.0.1", made.machine.ports.gateway))
    return made_socket


def answered(file: IO[bytes]) -> bool:
    """Whether the next answer of the connection, of a stated length, is a whole one."""
    status, length = file.readline(), 0
    while (line := file.readline().lower()) not in (b"\r\n", b""):
        length = int(line.split()[1]) if line.startswith(b"content-length:") else length
    return b" 200 " in status and bool(json.loads(file.read(length))["choices"])


def old_version(made: Arena) -> bool:
    with connected(made) as to:
        to.sendall(b"".join(asked(made, version="1.0")))
        return answered(to.makefile("rb"))


def old_version_streamed(made: Arena) -> bool:
    with connected(made) as to:
        to.sendall(b"".join(asked(made, version="1.0", stream=True)))
        return END in to.makefile("rb").read()


def closing(made: Arena) -> bool:
    with connected(made) as to:
        to.sendall(b"".join(asked(made, extra="Connection: close\r\n", stream=True)))
        return END in to.makefile("rb").read()


def pipelined(made: Arena) -> bool:
    with connected(made) as to:
        to.sendall(b"".join(part for _ in range(5) for part in asked(made)))
        file = to.makefile("rb")
        return all(answered(file) for _ in range(5))


def slow_upload(made: Arena) -> bool:
    """It lasts from before the switch until after it, now and then."""
    with connected(made) as to:
        head, body = asked(made, words=200)
        to.sendall(head)
        for start in range(0, len(body), len(body) // 20):
            to.sendall(body[start : start + len(body) // 20])
            time.sleep(0.2)
        return answered(to.makefile("rb"))


def in_chunks(made: Arena) -> bool:
    with connected(made) as to:
        head, body = asked(made, extra="Transfer-Encoding: chunked\r\n")
        to.sendall(head)
        for start in range(0, len(body), 20):
            part = body[start : start + 20]
            to.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            time.sleep(0.05)
        to.sendall(b"0\r\n\r\n")
        return answered(to.makefile("rb"))


def slow_reader(made: Arena) -> bool:
    with connected(made, most=2048) as to:
        to.sendall(b"".join(asked(made, extra="Connection: close\r\n", stream=True)))
        found = b""
        while part := to.recv(512):
            found += part
            time.sleep(0.05)
        return END in found


def second_version(made: Arena) -> bool:
    """HTTP/2 without TLS, by prior knowledge."""
    line = ["curl", "-sN", "--http2-prior-knowledge", "-w", "%{http_version}", "-H", f"Authorization: Bearer {made.machine.api_key()}"]
    line += [
        "-H",
        "Content-Type: application/json",
        "-d",
        asked(made, stream=True)[1].decode(),
        f"{made.machine.gateway_url}/v1/completions",
    ]
    found = subprocess.run(line, capture_output=True, timeout=60, check=False).stdout
    return END in found and found.endswith(b"2")


def upgrade(made: Arena) -> bool:
    """Refused at once: nothing here speaks WebSocket."""
    with connected(made) as to:
        to.sendall(asked(made, extra="Connection: Upgrade\r\nUpgrade: websocket\r\n")[0])
        return b" 403 " in to.makefile("rb").readline()


CLIENTS: tuple[Client, ...] = (
    old_version,
    old_version_streamed,
    closing,
    pipelined,
    slow_upload,
    in_chunks,
    slow_reader,
    upgrade,
    *((second_version,) if shutil.which("curl") else ()),
)


def test_no_client_of_another_kind_loses_an_answer_to_a_promotion() -> None:
    stop, failed, done = threading.Event(), list[str](), dict[str, int]()

    def repeat(client: Client) -> None:
        while not stop.wait(0.2):
            began = time.time()
            try:
                whole, why = client(made), ""
            except (OSError, ValueError) as error:
                whole, why = False, str(error)
            done[client.__name__] = done.get(client.__name__, 0) + 1
            if not whole:
                failed.append(f"{client.__name__} after {time.time() - began:.1f} s {why}")

    with arena("light", **QUICK) as made:
        threads = [threading.Thread(target=repeat, args=(client,)) for client in CLIENTS]
        for thread in threads:
            thread.start()
        try:
            ran = made.promote(rollback_window_seconds=0, idle_replicas=0)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert ran.outcome == "committed", ran.reason
    assert failed == []
    assert set(done) == {client.__name__ for client in CLIENTS}
