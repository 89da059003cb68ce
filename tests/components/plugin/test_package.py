"""The package for platform teams: light to import, typed, its schema kept, its examples running."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.provider.experimental.component import ComponentProvider

import inferstack
from inferstack.program.run import run_stack
from tests.components.cloud.sdk import mistakes
from tests.components.kubernetes import validate

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(file.parent.name for file in (ROOT / "docs/examples").glob("*/Pulumi.yaml"))
GOLDEN = Path(__file__).parent / "schema.json"


def test_importing_the_package_loads_no_sdk() -> None:
    code = "import inferstack, sys; print([m for m in sys.modules if m.startswith(('pulumi', 'grpc', 'yaml'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["GkeCluster", "GkeGpuPool", "AksCluster", "AksGpuPool", "RedisCache", "Monitoring", "InferenceService"])
def test_a_platform_team_can_import_each_component(name: str) -> None:
    assert issubclass(getattr(inferstack, name), pulumi.ComponentResource)
    assert name in dir(inferstack)


def test_a_name_that_is_no_component_is_refused() -> None:
    with pytest.raises(AttributeError, match="NoSuchPart"):
        _ = inferstack.NoSuchPart


def test_the_schema_for_other_languages_is_as_committed() -> None:
    components = [getattr(inferstack, name) for name in inferstack.COMPONENTS]
    schema = json.loads(ComponentProvider(components, "inferstack", None, "0.0.0").schema, object_hook=_unindented)
    text = json.dumps(schema, indent=1, sort_keys=True) + "\n"
    if os.environ.get("INFERSTACK_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "the public API changed; INFERSTACK_UPDATE_GOLDEN=1 writes the new schema"
    assert set(schema["resources"]) == {f"inferstack:index:{name}" for name in inferstack.COMPONENTS}
    for name, resource in schema["resources"].items():
        undocumented = [key for key, value in resource["inputProperties"].items() if not value.get("description")]
        assert undocumented == [], f"{name} has inputs without a description"


def _unindented(part: dict[str, Any]) -> dict[str, Any]:
    """Descriptions without the indentation of their docstrings, which Python keeps up to 3.12."""
    text = part.get("description")
    return {**part, "description": inspect.cleandoc(text)} if isinstance(text, str) else part


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_its_objects_are_admitted(name: str) -> None:
    run = run_stack(ROOT / "docs/examples" / name, "dev", preview=True)
    kinds = [item.type.rpartition(":")[2] for item in run.resources]
    assert kinds.count("InferenceSlot") == 2
    assert "HTTPRoute" in kinds
    for item in run.resources:
        if item.type.startswith("kubernetes:"):
            validate(item.inputs)
        if item.type.startswith(("gcp:", "azure-native:")):
            assert mistakes(item.type, item.inputs) == []


def test_there_are_three_examples() -> None:
    assert len(EXAMPLES) == 3
