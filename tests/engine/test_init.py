"""A project that `inferstack init` wrote, through the real engine as it stands."""

import dataclasses
import sys
from pathlib import Path

import pytest

from inferstack.cli import run
from tests.engine.conftest import Engine


@pytest.mark.parametrize("platform", ["gke", "aks", "kubernetes"])
def test_a_new_project_is_previewed_as_the_guide_says(engine: Engine, platform: str, tmp_path: Path) -> None:
    folder = tmp_path / "my-llm"
    assert run(["init", str(folder), "--platform", platform]) == 0
    name = {"kubernetes": "dev"}.get(platform, f"dev-{platform}")
    environment = {**engine.environment, "PATH": f"{Path(sys.prefix) / 'bin'}:{engine.environment['PATH']}"}
    new = dataclasses.replace(engine, folder=folder, environment=environment)
    new.pulumi("stack", "init", name)
    shown = new.preview(name).stdout
    assert "inferstack:index:InferenceRoute" in shown
    assert "error" not in shown
