"""The command behind scripts/cluster."""

import argparse
import json
import os
import sys
import time

from machine import build, client, lifecycle, processes
from machine.layout import Machine, default_folder, load, project_root
from machine.pins import kubernetes_version


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/cluster", description="A real Kubernetes on this machine, for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="build what is missing, start, wait until ready")
    which = start.add_mutually_exclusive_group()
    which.add_argument("--no-pods", action="store_const", const="api", dest="mode", help="the API server and its custom resources alone")
    which.add_argument(
        "--kwok", action="store_const", const="kwok", dest="mode", help="control plane, with nodes and pods that only exist in it"
    )
    which.add_argument(
        "--pods", action="store_const", const="pods", dest="mode", help="real pods, or fail (default: the most that works here)"
    )
    commands.add_parser("down", help="end it; leaves no process, mount, namespace or rule")
    status = commands.add_parser("status", help="what runs, and its memory")
    status.add_argument("--json", action="store_true")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    load_image = commands.add_parser("load", help="load an OCI archive into the node")
    load_image.add_argument("archive")
    report = commands.add_parser("report", help="measure and write docs/cluster-report.md (minutes)")
    report.add_argument("--cold", action="store_true", help="also build the programs with empty caches")
    run = commands.add_parser("run", help="run a command inside the machine's network")
    run.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    try:
        return _do(given)
    except (lifecycle.CannotStart, build.CannotBuild, client.NotInTime, RuntimeError, FileNotFoundError) as error:
        print(f"scripts/cluster: {error}", file=sys.stderr)
        logs = default_folder().with_name(default_folder().name + "-log")
        if given.command == "up" and logs.exists():
            print(f"the programs' logs are in {logs}", file=sys.stderr)
        return 5


def _do(given: argparse.Namespace) -> int:
    if given.command == "up":
        started = time.monotonic()
        m = lifecycle.up(given.mode)
        print(f"Kubernetes {kubernetes_version()}, {_what(m)}, in {time.monotonic() - started:.1f} s")
        print(f"export KUBECONFIG={m.kubeconfig}")
        return 0
    if given.command == "down":
        print("ended" if lifecycle.down() else "nothing runs")
        return 0
    if given.command == "report":
        from harness import report

        report.write(project_root() / "docs" / "cluster-report.md", cold=given.cold)
        return 0
    found = load(default_folder())
    if not found:
        print("nothing runs; start it with scripts/cluster up", file=sys.stderr)
        return 1
    if given.command == "kubeconfig":
        print(found.kubeconfig)
    elif given.command == "status":
        _status(found, as_json=given.json)
    elif given.command == "load":
        lifecycle.import_image(found, given.archive)
    elif given.command == "run":
        words = given.words[1:] if given.words[:1] == ["--"] else given.words
        command = [*lifecycle.enter(found), *words]
        os.execvpe(command[0], command, os.environ | {"KUBECONFIG": str(found.kubeconfig)})
    return 0


def _what(m: Machine) -> str:
    return {"pods": "real pods", "kwok": "pods only in the API server", "api": "API server alone"}[m.mode]


def _status(m: Machine, *, as_json: bool) -> None:
    parts = {r.name: {"pid": r.pid, "alive": r.alive, "memory_bytes": processes.memory_bytes(r)} for r in processes.remembered(m.folder)}
    if as_json:
        print(json.dumps({"mode": m.mode, "kubeconfig": str(m.kubeconfig), "gateway": m.gateway_url, "programs": parts}))
        return
    print(f"{_what(m)} in {m.folder}" + (f"; Gateway at {m.gateway_url}" if m.mode == "pods" else ""))
    for name, part in parts.items():
        print(f"  {name:26} {'runs' if part['alive'] else 'ended':6} {part['memory_bytes'] / 2**20:7.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
