"""Every shipped environment × layer keeps its plan. After an intended change: INFERSTACK_UPDATE_GOLDEN=1 pytest tests/components/plan"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from inferstack.environment import BASE_KEY, Layer, Platform, environment_names, load_environment
from inferstack.program.plan import plan_environment

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"


def cases() -> list[Any]:
    """Every environment × layer; a layer that the environment's own stacks do not use is left to the slow lane."""
    found = []
    for name in environment_names(ROOT / "stacks"):
        text = (ROOT / f"stacks/Pulumi.{name}.yaml").read_text(encoding="utf-8")
        environment = load_environment(ROOT / "stacks", name)
        if environment.platform is not Platform.LOCAL and BASE_KEY not in text:
            own = [Layer.ALL] if environment.layer is Layer.ALL else [Layer.PLATFORM, Layer.SLOT]
            found += [pytest.param(name, layer, marks=[] if layer in own else [pytest.mark.slow]) for layer in Layer]
    return found


def as_text(plan: dict[str, Any]) -> str:
    """One resource a line, so that a change shows the resources that it touches."""
    lines = ",\n".join(json.dumps(item, sort_keys=True, ensure_ascii=False) for item in plan["resources"])
    return f'{{"environment": "{plan["environment"]}", "resources": [\n{lines}\n]}}\n'


@pytest.mark.parametrize(("name", "layer"), cases())
def test_the_plan_of_an_environment_is_as_committed(name: str, layer: Layer) -> None:
    found = as_text(plan_environment(ROOT, name, layer).to_json())
    file = GOLDEN / f"{name}.{layer}.json"
    if os.environ.get("INFERSTACK_UPDATE_GOLDEN"):
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8"), "the plan changed; INFERSTACK_UPDATE_GOLDEN=1 writes the new one"


def test_no_golden_is_left_over() -> None:
    assert sorted(file.stem for file in GOLDEN.glob("*.json")) == sorted(f"{case.values[0]}.{case.values[1]}" for case in cases())
