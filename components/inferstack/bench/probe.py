"""How long a trivial request waits while a load runs: PYTHON -m inferstack.bench.probe HOST PORT PATH, until its input closes.

A process of its own, so that a busy client does not count. Asks for PATH fifty times a second, at most one at a time, on one connection,
and prints the seconds of each answer as a JSON list. What a server's event loop holds up, these answers wait for.
"""

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

_INTERVAL = 0.02


@contextlib.contextmanager
def probing(host: str, port: int, path: str = "/livez") -> Iterator[list[float]]:
    """Probes while the context is open; the list holds the seconds of all answers once it has closed."""
    waits: list[float] = []
    command = [sys.executable, "-m", __spec__.name, host, str(port), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield waits
        finally:
            output, _ = process.communicate()
            waits += json.loads(output)


def main(arguments: Sequence[str]) -> None:
    """Ask until standard input ends."""
    host, port, path = arguments[0], int(arguments[1]), arguments[2]
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    waits = []
    connection = http.client.HTTPConnection(host, port, timeout=60)
    while not ended.wait(_INTERVAL):
        began = time.perf_counter()
        connection.request("GET", path)
        connection.getresponse().read()
        waits.append(time.perf_counter() - began)
    connection.close()
    json.dump(waits, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
