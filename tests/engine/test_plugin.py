"""The package as a Pulumi plugin: its schema from the real engine, an SDK from it, and another project that uses that SDK."""

import json
import shutil
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

import inferstack
from tests.engine.conftest import PACKAGES, ROOT, Engine

CONSUMER = """
import pulumi
import pulumi_inferstack

cluster = pulumi_inferstack.GkeCluster(
    "team", project="team-project", region="europe-west4", system_machine_type="e2-standard-4", deletion_protection=False
)
pool = pulumi_inferstack.GkeGpuPool(
    "team-gpu",
    project="team-project",
    region="europe-west4",
    cluster=cluster.name,
    node_service_account=cluster.node_service_account,
    accelerator="nvidia-l4",
    machine_type="g2-standard-4",
    max_nodes=2,
)
pulumi.export("pools", pool.names)
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """An environment that finds everything that this one has, for the engine to install into as it likes."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    (inside,) = folder.glob("lib/python*/site-packages")
    (inside / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return folder


@pytest.fixture
def plugin(tmp_path: Path, engine: Engine, interpreter: Path) -> Path:
    """The plugin as its own folder says, with an environment that is there already; the clouds' providers count as installed."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    assert (ROOT / "components/PulumiPlugin.yaml").read_text().strip() == "runtime: python"
    (folder / "PulumiPlugin.yaml").write_text(f"runtime: {{name: python, options: {{virtualenv: {interpreter}}}}}\n")
    shutil.copy(ROOT / "components/__main__.py", folder)
    for package in PACKAGES:
        never_run = tmp_path / f"pulumi-resource-{package}"
        never_run.write_text("#!/bin/sh\nexit 1\n")
        never_run.chmod(0o755)
        engine.pulumi("plugin", "install", "resource", package, f"v{version(f'pulumi-{package}')}", "--file", str(never_run))
    return folder


def test_another_project_uses_the_components_through_the_plugin(engine: Engine, plugin: Path, interpreter: Path) -> None:
    schema = json.loads(engine.pulumi("package", "get-schema", str(plugin)).stdout)
    assert set(schema["resources"]) == {f"inferstack:index:{name}" for name in inferstack.COMPONENTS}
    golden = json.loads((ROOT / "tests/components/plugin/schema.json").read_text())
    for name, wanted in golden["resources"].items():
        assert set(schema["resources"][name]["inputProperties"]) == set(wanted["inputProperties"])
    shutil.rmtree(engine.folder)
    engine.folder.mkdir()
    (engine.folder / "Pulumi.yaml").write_text(f"name: team\nruntime: {{name: python, options: {{virtualenv: {interpreter}}}}}\n")
    (engine.folder / "__main__.py").write_text(CONSUMER)
    (engine.folder / "requirements.txt").write_text("pulumi\n")
    engine.pulumi("package", "add", str(plugin))
    engine.pulumi("stack", "init", "team")
    engine.up("team")
    made = [item["type"] for item in engine.cloud()["resources"].values()]
    assert made.count("gcp:container/cluster:Cluster") == 1
    assert made.count("gcp:container/nodePool:NodePool") == 2
    assert json.loads(engine.pulumi("stack", "output", "--stack", "team", "--json").stdout)["pools"] == ["team-gpu"]
    engine.preview("team", "--expect-no-changes")
    engine.destroy("team")
    assert engine.cloud()["resources"] == {}
