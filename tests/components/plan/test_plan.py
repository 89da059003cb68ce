"""The plan of an environment: the contract's keys, all its stacks, fast, and the same whatever the timing."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.cli import run
from inferstack.environment import InvalidEnvironment, Layer
from inferstack.program.plan import plan_environment
from tests.components.kubernetes import SMALL, validate

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this kit's program and one environment `own`, made of a platform stack and two slot stacks."""
    (tmp_path / "stacks").mkdir()
    (tmp_path / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    (tmp_path / "stacks/__main__.py").write_text((ROOT / "stacks/__main__.py").read_text())
    write(tmp_path, "own", {"inferstack:environment": SMALL | {"layer": "platform"}})
    return tmp_path


def write(project: Path, stack: str, config: dict[str, Any]) -> None:
    (project / f"stacks/Pulumi.{stack}.yaml").write_text(yaml.safe_dump({"config": config}))


def test_the_json_has_the_contracts_keys(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "own", "--json", "--project", str(project)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"environment", "resources", "findings", "cost", "seconds"} <= found.keys()
    for item in found["resources"]:
        assert {"type", "name", "layer", "parent", "inputs"} <= item.keys()


def test_a_layered_environment_is_planned_with_all_its_stacks(project: Path) -> None:
    found = plan_environment(project, "own")
    assert list(dict.fromkeys((item.stack, item.layer) for item in found.resources)) == [
        ("own", "platform"),
        ("own-blue", "slot"),
        ("own-green", "slot"),
    ]
    deployments = [item.inputs["metadata"]["name"] for item in found.resources if item.type.endswith(":Deployment")]
    assert deployments == ["inferstack-blue", "inferstack-green"]


def test_a_slot_stack_is_laid_over_its_environment_and_what_a_promotion_set(project: Path) -> None:
    write(
        project,
        "own-green",
        {
            "inferstack:base": "own",
            "inferstack:environment": {"layer": "slot", "slot": "green"},
            "inferstack:slot": {"generation": 7, "engine": {"max_sequences": 8}},
        },
    )
    found = plan_environment(project, "own")
    maps = {item.inputs["metadata"]["name"]: item.inputs["data"] for item in found.resources if item.name.endswith("-config-map")}
    blue, green = (json.loads(maps[f"inferstack-{slot}"]["runtime.json"]) for slot in ("blue", "green"))
    assert (green["identity"]["generation"], green["engine"]["max_sequences"]) == (7, 8)
    assert (blue["identity"]["generation"], blue["engine"]["max_sequences"]) == (1, 32)
    assert green["identity"]["environment"] == "own"


@pytest.mark.parametrize("layer", Layer)
def test_preview_and_update_plan_the_same_objects_and_all_are_admitted(layer: Layer) -> None:
    preview, update = (plan_environment(ROOT, "kubernetes", layer, preview=mode) for mode in (True, False))
    assert [(item.stack, item.type, item.name) for item in preview.resources] == [
        (item.stack, item.type, item.name) for item in update.resources
    ]
    for item in [*preview.resources, *update.resources]:
        if item.type.startswith("kubernetes:"):
            validate(item.inputs)


def test_two_plans_are_equal() -> None:
    first, second = (plan_environment(ROOT, "kubernetes").to_json() | {"seconds": 0} for _ in range(2))
    assert first == second


def test_a_local_environment_has_nothing_to_plan_in_pulumi() -> None:
    assert plan_environment(ROOT, "local").resources == ()


def test_a_wrong_environment_names_every_problem(project: Path) -> None:
    write(project, "bad", {"inferstack:environment": SMALL | {"contxt": "x", "namespace": 3.5}})
    with pytest.raises(InvalidEnvironment, match="did you mean `context`"):
        plan_environment(project, "bad")


def test_a_base_that_is_not_there_is_named(project: Path) -> None:
    write(project, "odd", {"inferstack:base": "nowhere", "inferstack:environment": {"layer": "slot", "slot": "blue"}})
    with pytest.raises(InvalidEnvironment, match="inferstack:base is 'nowhere'"):
        plan_environment(project, "odd")


def test_the_tree_shows_every_stack_without_a_terminal() -> None:
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", "from inferstack.cli import main; main()", "plan", "kubernetes", "--project", str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "Deployment inferstack-green" in process.stdout
    assert "\x1b" not in process.stdout
    assert time.monotonic() - started < 20  # a command's figure is in docs; this bound only keeps it from being forgotten
