import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from inferstack.local import programs


@dataclass
class Project:
    """A project folder with one local environment, and the command `inferstack` on it with the fake runtime."""

    root: Path
    name: str = "local"

    @property
    def directory(self) -> Path:
        return self.root / ".inferstack" / self.name

    @property
    def file(self) -> Path:
        return self.root / "stacks" / f"Pulumi.{self.name}.yaml"

    def edit(self, **keys) -> None:
        """Set keys of the environment file; `None` takes one away."""
        document = yaml.safe_load(self.file.read_text())
        environment = document["config"]["inferstack:environment"]
        for key, value in keys.items():
            environment[key] = value
        self.file.write_text(yaml.safe_dump(document))

    def start(self, *arguments, **options) -> subprocess.Popen:
        command = [sys.executable, str(Path(__file__).with_name("command.py")), *arguments, "--project", str(self.root)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}, **options
        )

    def run(self, *arguments, timeout=60) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def status(self) -> dict:
        return json.loads(self.run("status", self.name, "--json").stdout)

    def processes(self) -> list[int]:
        """Ids of all processes that work in this environment's folder."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cwd").readlink().is_relative_to(self.directory):
                    found.append(int(folder.name))
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project on a free port; whatever a test leaves running is taken down."""
    monkeypatch.setattr(programs, "runtime", lambda: [sys.executable, str(Path(__file__).with_name("fake_runtime.py"))])
    made = Project(tmp_path)
    (tmp_path / "Pulumi.yaml").write_text("name: test\nruntime: python\n")
    (tmp_path / "stacks").mkdir()
    environment = {
        "platform": "local",
        "models": [{"name": "tiny", "source": "file:///works", "quantization": "gguf", "context": 128}],
        "gateway": {"port": free_port()},
        "cache": {"backend": "process", "size": "16Mi"},
    }
    made.file.write_text(yaml.safe_dump({"config": {"inferstack:environment": environment}}))
    yield made
    made.run("down", "local", "--drain-seconds", "0")
    left = made.processes()
    for pid in left:
        os.kill(pid, 9)
    shutil.rmtree(made.directory, ignore_errors=True)
    assert not left
