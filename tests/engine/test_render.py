"""What `inferstack render` writes is what the real Kubernetes provider would write."""

import shutil
from pathlib import Path

import pytest
import yaml

from inferstack.environment import Layer, load_environment
from tests.engine.conftest import ROOT, Engine
from tests.engine.objects import key, rendered, without_annotations_of_the_engine

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
    assert rendered(ROOT, name) == {one: item for one, item in made.items() if one[0] != "Secret"}
