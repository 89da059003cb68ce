"""What the commands of `inferstack bench` share: their input, a load on a server, and what is said of it."""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from inferstack.cli.output import ExitCode, Failure, console, print_json


def shape_of(name: str) -> Any:
    from inferstack.bench.workload import STANDARD

    if name not in STANDARD:
        raise Failure(f"--workload: {name!r}, expected one of {', '.join(STANDARD)}", code=ExitCode.INPUT)
    return STANDARD[name]


def numbers(text: str, option: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise Failure(f"{option}: {text!r}, expected whole numbers above 0 with commas between", code=ExitCode.INPUT)
    return numbers


def target_of(url: str, key: str, model: str) -> Any:
    from inferstack.bench.client import Target

    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise Failure(f"--url: {url!r}, expected http://HOST:PORT", code=ExitCode.INPUT)
    extra = {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return Target(parts.hostname, parts.port or 80, model, key, extra=extra)


def measured(load: Any, url: str | None, key: str, model: str, source: str, quantization: str, threads: int | None) -> dict[str, Any]:
    from inferstack.bench.servers import inferstack, running

    if url is not None:
        return {"server": url} | loaded(target_of(url, key, model), load, None)
    with tempfile.TemporaryDirectory() as folder:
        recipe = inferstack(Path(folder), source=source, quantization=quantization, threads=threads)
        with running(recipe) as server:
            return {"server": recipe.name, "ready_seconds": server.ready_seconds} | loaded(server.target, load, server.rss_bytes)


def loaded(target: Any, load: Any, rss_bytes: Callable[[], int] | None) -> dict[str, Any]:
    """Figures of a load; `probe` is how long a trivial request waited meanwhile."""
    from inferstack.bench.compare import own_cpu_time
    from inferstack.bench.machine import cores
    from inferstack.bench.probe import probing
    from inferstack.bench.summary import percentiles, summarize

    with own_cpu_time() as cpu, probing(target.host, target.port) as waits:
        samples = asyncio.run(load(target))
    rss = None if rss_bytes is None else rss_bytes()
    summary = summarize(samples, client_cpu_seconds=cpu.seconds, cores=cores(), server_rss_bytes=rss)
    return summary.as_dict() | {"probe": percentiles(waits)}


def runtime(*arguments: str) -> dict[str, Any]:
    """What an `inferstack-runtime` command with --json printed."""
    command = shutil.which("inferstack-runtime", path=str(Path(sys.executable).parent)) or "inferstack-runtime"
    try:
        result = subprocess.run([command, *arguments, "--json"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failure("inferstack-runtime is not installed here: install the package inferstack-runtime", code=ExitCode.PLATFORM) from None
    if result.returncode:
        raise Failure(f"inferstack-runtime {arguments[0]}: {result.stderr.strip()[-500:]}", code=ExitCode.PLATFORM)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def packed(source: str, quantization: str, cache: Path) -> dict[str, Any]:
    return runtime("quantize", "--source", source, "--quantization", quantization, "--weight-cache", str(cache))


def convert(source: str, kind: str | None, folder: Path) -> Path:
    """The GGUF file of a source, as shipped or with its 4-bit matrices as another type."""
    path = folder / f"{kind}.gguf"
    if kind is not None and path.exists():
        return path
    chosen = ("--type", kind, "--output", str(path)) if kind else ()
    return Path(runtime("convert", "--source", source, *chosen)["path"])


def unquantized(python: Path, model: Path, folder: Path) -> Path:
    """The model as a folder of bfloat16 safetensors, written by the transformers of `python`."""
    from inferstack.bench import servers

    servers.transformers_version(python)
    script = Path(servers.__file__).parent / "unquantized.py"
    result = subprocess.run([str(python), str(script), str(model), str(folder)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise servers.NotInstalled(f"transformers cannot write {model.name} as safetensors: {result.stderr.strip()[-500:]}")
    return folder


def finish(about: dict[str, Any], rows: Sequence[dict[str, Any]], output: Path | None, as_json: bool) -> None:
    from inferstack.bench.machine import describe
    from inferstack.bench.report import write

    about = about | {"machine": describe(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "arguments": sys.argv[1:]}
    if output is not None:
        for path in write(output, about, rows):
            console(stderr=True).print(f"wrote {path}")
    if as_json:
        print_json({"about": about, "rows": list(rows)})
        return
    screen = console()
    machine = about["machine"]
    screen.print(f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['instruction_sets'])}")
    for line in about.get("medians") or rows:
        screen.print("  ".join(f"{name} {_shown(value)}" for name, value in line.items() if value not in (None, [], ())))
    for label, why in about.get("missing", {}).items():
        screen.print(f"missing: {label}: {why}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name}={_shown(item)}" for name, item in value.items())
    return "[" + ", ".join(_shown(item) for item in value) + "]" if isinstance(value, list | tuple) else str(value)
