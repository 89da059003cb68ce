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

REPOSITORY = Path(__file__).parents[3]


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
        """Set keys of the environment file."""
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


class Machine:
    """The environment `local` of this repository in a folder of its own and on a free port, with the real runtime."""

    def __init__(self, root, port):
        self.root = root
        document = yaml.safe_load((REPOSITORY / "stacks" / "Pulumi.local.yaml").read_text())
        document["config"]["inferstack:environment"]["gateway"] = {"port": port}
        (root / "stacks").mkdir()
        (root / "stacks" / "Pulumi.local.yaml").write_text(yaml.safe_dump(document))
        (root / "Pulumi.yaml").write_text((REPOSITORY / "Pulumi.yaml").read_text())

    def start(self, command, *arguments):
        command = [str(Path(sys.executable).with_name("inferstack")), command, "local", *arguments, "--json", "--project", str(self.root)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, command, *arguments):
        process = self.start(command, *arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, f"{command}: {out[-2000:]} {err}"
        return out

    def up(self):
        """The `ready` event: base_url, api_key, model, seconds_to_first_token."""
        return json.loads(self.run("up").splitlines()[-1])

    def status(self):
        return json.loads(self.run("status"))


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """The environment, up; all tests of a run share it, and each leaves it up."""
    made = Machine(tmp_path_factory.mktemp("project"), free_port())
    try:
        made.ready = made.up()
        yield made
    finally:
        made.run("down", "--drain-seconds", "1")
