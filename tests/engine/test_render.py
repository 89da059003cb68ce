"""What `inferstack render` writes is what a real `pulumi up` creates."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.environment import Layer, Platform, load_environment
from inferstack.program.render import KUSTOMIZATION, render_environment
from tests.engine.conftest import ROOT, Engine
from tests.engine.test_lifecycle import PRESETS, stacks

RENDERING_PROGRAM = '''
from pathlib import Path

import pulumi

from inferstack.serving.stack import deploy


def to_files(args):
    """The kubernetes provider of the program writes files in place of talking to a cluster."""
    if args.type_ != "pulumi:providers:kubernetes":
        return None
    kept = {key: value for key, value in args.props.items() if key not in ("kubeconfig", "context", "clusterIdentifier")}
    return pulumi.ResourceTransformResult({**kept, "renderYamlToDirectory": FOLDER}, args.opts)


pulumi.runtime.register_resource_transform(to_files)
deploy(Path(__file__).parent)
'''


def rendered(name: str, outputs: dict[str, Any] | None = None) -> dict[tuple[str, ...], Any]:
    files = render_environment(ROOT, name, outputs=outputs).files
    objects = [yaml.safe_load(text) for file, text in files.items() if file != KUSTOMIZATION]
    return {key(item): item for item in objects}


def key(item: dict[str, Any]) -> tuple[str, ...]:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def without_annotations_of_the_engine(item: dict[str, Any]) -> dict[str, Any]:
    """The object without what only the engine reads or its provider adds: its own annotations."""
    meta = dict(item["metadata"])
    annotations = {key: value for key, value in meta.pop("annotations", {}).items() if not key.startswith("pulumi.com/")}
    return {**item, "metadata": meta | ({"annotations": annotations} if annotations else {})}


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "cluster"])
def test_a_rendering_is_what_an_update_creates(engine: Engine, name: str) -> None:
    for stack in stacks(engine, name):
        engine.pulumi("stack", "init", stack)
        engine.up(stack)
    cloud = [item for item in engine.cloud()["resources"].values() if item["type"].startswith("kubernetes:")]
    made = {key(item["inputs"]): without_annotations_of_the_engine(item["inputs"]) for item in cloud}
    outputs = json.loads(engine.pulumi("stack", "output", "--stack", name, "--json").stdout)
    wanted = rendered(name, outputs if load_environment(ROOT / "stacks", name).platform is Platform.AKS else None)
    assert wanted == {one: item for one, item in made.items() if one[0] != "Secret"}


@pytest.mark.skipif(shutil.which("pulumi-resource-kubernetes") is None, reason="no kubernetes provider on PATH")
def test_the_real_provider_writes_the_same_objects(engine: Engine, tmp_path: Path) -> None:
    name, folder = "kubernetes", tmp_path / "yaml"
    assert load_environment(ROOT / "stacks", name).layer is Layer.ALL
    (engine.folder / "stacks/__main__.py").write_text(RENDERING_PROGRAM.replace("FOLDER", repr(str(folder))))
    providers = engine.environment["PULUMI_DEBUG_PROVIDERS"].split(",")
    engine.environment["PULUMI_DEBUG_PROVIDERS"] = ",".join(item for item in providers if not item.startswith("kubernetes:"))
    engine.pulumi("stack", "init", name)
    engine.up(name)
    objects = [yaml.safe_load(file.read_text()) for file in folder.rglob("*.yaml")]
    made = {key(item): without_annotations_of_the_engine(item) for item in objects}
    assert rendered(name) == {one: item for one, item in made.items() if one[0] != "Secret"}
