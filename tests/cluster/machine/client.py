"""The two ways to the API server: kubectl for files, and plain requests for waiting."""

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from machine import processes
from machine.layout import CONTEXT, Machine


class NotInTime(TimeoutError):
    """Something did not happen in the time that it had."""


def tool(name: str) -> str:
    """A program that the development environment brings along (kubectl, traefik)."""
    beside = Path(sys.executable).parent / name
    if not beside.exists():
        raise FileNotFoundError(f"{beside} is missing; run scripts/setup development")
    return str(beside)


def kubectl(m: Machine, *arguments: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run kubectl against this machine and no other: its kubeconfig and context are always named."""
    command = [tool("kubectl"), f"--kubeconfig={m.kubeconfig}", f"--context={CONTEXT}", *arguments]
    done = subprocess.run(processes.with_this_one(command), input=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def apply(m: Machine, objects: Iterable[dict[str, Any]]) -> None:
    """Server-side apply, with unknown fields refused."""
    items = list(objects)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    if items:
        kubectl(m, "apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-", given=listed)


def apply_files(m: Machine, files: Iterable[Path]) -> None:
    kubectl(m, "apply", "--server-side", "--force-conflicts", *(f"--filename={path}" for path in files))


def get(m: Machine, path: str, timeout: float = 5) -> tuple[int, bytes]:
    """One GET of ``path`` at the API server as administrator: status and body. Raises OSError where nobody answers."""
    context = ssl.create_default_context(cafile=str(m.pki / "ca.crt"))
    context.load_cert_chain(m.pki / "admin.crt", m.pki / "admin.key")
    try:
        with urllib.request.urlopen(f"https://127.0.0.1:{m.ports.api}{path}", timeout=timeout, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def read(m: Machine, path: str) -> Any:
    """The object at ``path``. Raises LookupError with the server's answer when there is none."""
    status, body = get(m, path)
    if status != 200:
        raise LookupError(f"GET {path}: {status} {body[:200].decode(errors='replace')}")
    return json.loads(body)


def wait(what: str, seconds: float, happened: Callable[[], bool], every: float = 0.1) -> float:
    """Wait until ``happened()``; return the seconds it took. Raises NotInTime. Errors of the way there count as `not yet`."""
    started = time.monotonic()
    last = ""
    while True:
        try:
            if happened():
                return time.monotonic() - started
        except (OSError, LookupError) as error:
            last = f" ({error})"
        if time.monotonic() - started > seconds:
            raise NotInTime(f"{what}: not in {seconds:g} s{last}")
        time.sleep(every)


def ready(m: Machine) -> bool:
    """Whether the API server says that it is ready."""
    return get(m, "/readyz")[0] == 200


def node_is_ready(m: Machine, name: str) -> bool:
    conditions = read(m, f"/api/v1/nodes/{name}").get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
