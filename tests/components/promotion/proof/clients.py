"""The clients' process: closed loops of streams through the gateway until stdin ends, one JSON line per judged request.

python -m tests.components.promotion.proof.clients '{"port": ..., "key": ..., "model": ..., "mix": [...]}'
"""

import asyncio
import json
import sys
import time

from inferstack.load import Result, Target, run_load


async def main(target: dict) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: stop.set() if not sys.stdin.buffer.read1(1) else None)

    def write(kind: str, result: Result) -> None:
        line = {
            "kind": kind,
            "outcome": result.outcome,
            "slot": result.slot,
            "started": time.time() - result.total,
            "total": result.total,
            "ttft": result.ttft,
            "reason": result.reason,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    to = Target("127.0.0.1", target["port"], target["key"], target["model"])
    loads = [
        run_load(
            to,
            clients=client["clients"],
            seconds=1e9,
            keep_alive=client["keep_alive"],
            max_tokens=client["max_tokens"],
            stop=stop,
            watch=lambda result, kind=client["kind"]: write(kind, result),
        )
        for client in target["mix"]
    ]
    await asyncio.gather(*loads)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
