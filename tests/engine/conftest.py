"""The engine lane: a real `pulumi` with a backend in a folder, and stub providers in place of the clouds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.stub import serving

ROOT = Path(__file__).parents[2]
PACKAGES = ("gcp", "azure-native", "kubernetes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in ("pulumi", "pulumi-language-python") if shutil.which(name) is None]
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.engine)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"{' and '.join(missing)} not on PATH: the engine lane needs the real pulumi"))


@dataclass(frozen=True)
class Engine:
    """One project with its own backend, and the cloud that the stub keeps."""

    folder: Path
    environment: dict[str, str]
    store: Path

    def pulumi(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400
        )
        if check and process.returncode:
            raise AssertionError(f"pulumi {' '.join(arguments)} ended with {process.returncode}\n{process.stdout}\n{process.stderr}")
        return process

    def up(self, stack: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.pulumi("up", "--stack", stack, "--yes", "--skip-preview", "--suppress-progress", *more, check=check)

    def preview(self, stack: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.pulumi("preview", "--stack", stack, "--suppress-progress", *more, check=check)

    def destroy(self, stack: str, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.pulumi("destroy", "--stack", stack, "--yes", "--skip-preview", "--suppress-progress", *more, check=check)

    def cloud(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.read_text())
        return found

    def change_cloud(self, cloud: dict[str, Any]) -> None:
        self.store.write_text(json.dumps(cloud))

    def state(self, stack: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.pulumi("stack", "export", "--stack", stack).stdout)
        return found


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A project of its own, for a test that breaks something."""
    with project(tmp_path) as made:
        yield made


@contextmanager
def project(tmp_path: Path) -> Iterator[Engine]:
    """A copy of this project that a real `pulumi` runs against stub clouds and a backend in a folder."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "stacks", folder / "stacks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(__file__).parent / "stacks", folder / "stacks", dirs_exist_ok=True)
    text = (ROOT / "Pulumi.yaml").read_text().replace("options: {virtualenv: .venv}", f"options: {{virtualenv: {Path(sys.prefix)}}}")
    (folder / "Pulumi.yaml").write_text(text)
    (tmp_path / "backend").mkdir()
    store = tmp_path / "cloud.json"
    with serving(store) as port:
        environment = {
            **os.environ,
            "PULUMI_HOME": str(tmp_path / "home"),
            "PULUMI_BACKEND_URL": f"file://{tmp_path / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_DEBUG_PROVIDERS": ",".join(f"{package}:{port}" for package in PACKAGES),
            "NO_COLOR": "1",
        }
        yield Engine(folder, environment, store)
