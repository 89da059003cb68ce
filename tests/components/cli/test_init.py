"""A new project: small, valid, planned as it stands, and never written over something."""

import json
from pathlib import Path

import pytest

from inferstack.cli import run
from inferstack.environment import environment_names, load_environment
from inferstack.program.plan import plan_environment


@pytest.mark.parametrize("platform", ["gke", pytest.param("aks", marks=pytest.mark.slow), "kubernetes"])
def test_a_new_project_can_be_planned(platform: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "My Project"
    assert run(["init", str(folder), "--platform", platform, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["project"] == "my-project"
    name = found["environments"][0]
    plan = plan_environment(folder, name)
    assert [item for item in plan.findings if item.severity != "info" or item.rule.startswith("waiver")] == []
    assert any(item.type.endswith(":HTTPRoute") for item in plan.resources)


def test_by_default_it_holds_a_cluster_and_one_machine(tmp_path: Path) -> None:
    assert run(["init", str(tmp_path / "new")]) == 0
    stacks = tmp_path / "new/stacks"
    assert environment_names(stacks) == ["dev", "local"]
    assert load_environment(stacks, "local").platform == "local"


def test_a_folder_with_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["init", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
