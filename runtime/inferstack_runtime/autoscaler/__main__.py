"""The back-test as a process: one JSON object on stdin, one on stdout.  python -m inferstack_runtime.autoscaler

In: `trace` ({"text", "source"} or {"shape", "peak", "hours", "seed"}), `replica` (Replica), `bounds` (fewest, most), `budget_hourly_usd`,
`fixed_hourly_usd`, `targets` (queue, kv, cpu, memory, down_seconds), `slo_seconds`. Out: `policies`, a list of results, and the load.
"""

import json
import sys
from typing import Any

from inferstack_runtime.autoscaler.backtest import Replica, compare
from inferstack_runtime.autoscaler.policies import every_policy
from inferstack_runtime.autoscaler.signals import Bounds, replica_cap
from inferstack_runtime.autoscaler.traces import BadTrace, generate, parse


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """The back-test of one request; raises BadTrace."""
    trace = parse(**asked["trace"]) if "text" in asked["trace"] else generate(**asked["trace"])
    replica = Replica(**asked["replica"])
    cap, budget = None, asked.get("budget_hourly_usd")
    if budget is not None and replica.hourly_usd:
        cap = replica_cap(budget, replica.hourly_usd, asked.get("fixed_hourly_usd") or 0.0)
    bounds, aims = Bounds(asked["bounds"]["fewest"], asked["bounds"]["most"], cap), asked["targets"]
    policies = every_policy(bounds, aims["queue"], aims["kv"], aims["cpu"], aims["memory"], aims["down_seconds"])
    found = compare(policies, trace, replica, max(1, bounds.fewest), asked["slo_seconds"])
    return {
        "policies": [result.to_json() for result in found],
        "hours": round(trace.seconds / 3600, 3),
        "peak_requests_per_second": round(max(trace.rates), 3),
        "replica_cap": cap,
    }


def main() -> int:
    try:
        print(json.dumps(answer(json.load(sys.stdin))))
    except BadTrace as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
