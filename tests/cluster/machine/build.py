"""The programs, built once for each state of programs/ and kept in the cache."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from machine import processes
from machine.pins import ADAPTER, CUSTOM_RESOURCES, PROGRAMS, CustomResources, kubernetes_version

PROGRAMS_OF = {
    "api": ("etcd", "kube"),
    "kwok": ("etcd", "kube", "kwok"),
    "pods": ("etcd", "kube", "dns", "pause", "relay"),
}


class CannotBuild(RuntimeError):
    """Something that the programs are built with is missing or failed; the text says what to do."""


def build(mode: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the folder with the programs that ``mode`` needs, after building those that are not there yet."""
    folder = cache / f"programs-{_key()}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS_OF[mode]:
        if not (folder / name).exists():
            started = time.monotonic()
            say(f"building {name}")
            _build(name, folder)
            _note_seconds(folder, name, time.monotonic() - started)
    return folder


def adapter(cache: Path, say: Callable[[str], None]) -> Path:
    """The Prometheus adapter (custom.metrics.k8s.io), which only the tests of scaling by it need; minutes the first time."""
    digest = hashlib.sha256(b"".join((ADAPTER / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()[:12]
    target = cache / f"prometheus-adapter-{digest}"
    if not target.exists():
        say("building the Prometheus adapter")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            built = Path(unfinished) / target.name
            package = "sigs.k8s.io/prometheus-adapter/cmd/adapter"
            _go("build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w", "-o", str(built), package, folder=ADAPTER)
            built.rename(target)
    return target


def custom_resources(wanted: Iterable[CustomResources] = CUSTOM_RESOURCES) -> list[Path]:
    """The files with CustomResourceDefinitions, from the module cache; a checksum other than the pinned one is refused."""
    files: list[Path] = []
    for one in wanted:
        done = _go("mod", "download", "-json", f"{one.module}@{one.version}", folder=Path(tempfile.gettempdir()))
        answer = json.loads(done)
        if answer.get("Sum") != one.sum:
            raise CannotBuild(f"{one.module}@{one.version} has the checksum {answer.get('Sum')}; machine/pins.py expects {one.sum}")
        for pattern in one.files:
            found = sorted(Path(answer["Dir"]).glob(pattern))
            if not found:
                raise CannotBuild(f"{one.module}@{one.version} has no {pattern}; see machine/pins.py")
            files += found
    return files


def kwok_stages() -> list[Path]:
    """The files that say how KWOK moves nodes and pods along, of the version in go.mod."""
    folder = Path(_go("list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok", folder=PROGRAMS).strip()) / "kustomize" / "stage"
    patterns = ("node/fast/node-*.yaml", "node/heartbeat-with-lease/node-*.yaml", "pod/fast/pod-*.yaml")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def build_seconds(programs: Path) -> dict[str, float]:
    """Seconds that each program took when it was built here."""
    try:
        seconds: dict[str, float] = json.loads((programs / "seconds.json").read_text())
    except FileNotFoundError:
        return {}
    return seconds


def _key() -> str:
    digest = hashlib.sha256(f"1 {kubernetes_version()}".encode())
    for path in sorted([*PROGRAMS.glob("go.*"), *PROGRAMS.glob("*/*.go")]):
        digest.update(f"{path.relative_to(PROGRAMS)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _build(name: str, folder: Path) -> None:
    flags = "-s -w"
    if name == "kube":
        version = kubernetes_version()
        major, minor = version.removeprefix("v").split(".")[:2]
        stamp = "k8s.io/component-base/version"  # unstamped, the node calls itself v0.0.0-master
        flags += f" -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        target = Path(unfinished) / name
        _go("build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", flags, "-o", str(target), f"./{name}", folder=PROGRAMS)
        target.rename(folder / name)


def _go(*arguments: str, folder: Path) -> str:
    if not shutil.which("go"):
        raise CannotBuild("`go` is not on PATH: install Go (https://go.dev/dl) to build the cluster's programs")
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": os.environ.get("GOTOOLCHAIN", "auto")}
    done = subprocess.run(
        processes.with_this_one(["go", *arguments]), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotBuild(f"go {' '.join(arguments[:2])} failed in {folder}:\n{done.stderr[-2000:] or done.stdout[-2000:]}")
    return done.stdout


def _note_seconds(folder: Path, name: str, seconds: float) -> None:
    (folder / "seconds.json").write_text(json.dumps(build_seconds(folder) | {name: round(seconds, 1)}))
