"""Rendering: the plan's objects as files, the same every time, no secret in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.cli import run
from inferstack.environment import Layer, read_raw
from inferstack.program.plan import plan_environment
from inferstack.program.render import KUSTOMIZATION, NotRenderable, write
from tests.components.kubernetes import rendered_from, validate

ROOT = Path(__file__).parents[3]


def test_every_object_of_the_plan_is_one_file_and_listed() -> None:
    rendered = rendered_from(ROOT, "kubernetes")
    planned = {
        (item.inputs["kind"], item.inputs["metadata"]["name"])
        for item in plan_environment(ROOT, "kubernetes").resources
        if item.type.startswith("kubernetes:")
    }
    objects = {name: yaml.safe_load(text) for name, text in rendered.files.items() if name != KUSTOMIZATION}
    assert {(item["kind"], item["metadata"]["name"]) for item in objects.values()} == planned
    assert yaml.safe_load(rendered.files[KUSTOMIZATION])["resources"] == list(objects)
    for item in objects.values():
        validate(item)
        assert "pulumi.com" not in json.dumps(item)


@pytest.mark.parametrize("change", [{"drain": {"seconds": 700, "grace_seconds": 800}}, {"monitoring": {"thresholds": {"Foo": 1}}}])
def test_what_the_plan_finds_wrong_is_not_rendered(change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "stacks", tmp_path / "stacks")
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    raw = read_raw(ROOT / "stacks/Pulumi.kubernetes.yaml") | change | {"gateway": {"class_name": "traefik", "timeout_seconds": 900}}
    (tmp_path / "stacks/Pulumi.own.yaml").write_text(yaml.safe_dump({"config": {"inferstack:environment": raw}}))
    assert run(["render", "own", "--out", str(tmp_path / "out"), "--project", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "Fix:" in said
    assert said.count("error: ") == 1
    assert not (tmp_path / "out").exists()


def test_objects_of_the_same_name_in_two_namespaces_are_two_files() -> None:
    outputs = {"known": {"dev-aks-workload": {"clientId": "11111111-2222-3333-4444-555555555555"}}}
    files = rendered_from(ROOT, "dev-aks", outputs=outputs).files
    planned = [item for item in plan_environment(ROOT, "dev-aks").resources if item.type.startswith("kubernetes:")]
    assert len(files) == len(planned) + 1
    assert {"networkpolicy-inferstack-default-deny.yaml", "networkpolicy-inferstack-gpu-inferstack-default-deny.yaml"} <= set(files)


def test_two_renderings_are_the_same_bytes() -> None:
    assert rendered_from(ROOT, "kubernetes").files == rendered_from(ROOT, "kubernetes").files


def test_the_namespace_comes_first() -> None:
    assert next(iter(rendered_from(ROOT, "kubernetes").files)).startswith("namespace-")


def test_secrets_are_named_and_never_written() -> None:
    rendered = rendered_from(ROOT, "prod-gke")
    assert set(rendered.secrets) >= {"inferstack/inferstack-keys", "inferstack/llm-certificate"}
    assert not any(name.startswith("secret-") for name in rendered.files)
    assert "[secret]" not in "".join(rendered.files.values())


def test_one_slot_can_be_rendered_alone() -> None:
    files = rendered_from(ROOT, "kubernetes", Layer.SLOT).files
    assert "deployment-inferstack-green.yaml" in files
    assert "httproute-inferstack.yaml" not in files


def test_what_only_the_cloud_knows_is_named_and_can_be_given() -> None:
    with pytest.raises(NotRenderable, match=r"azure\.workload.identity/client-id"):
        rendered_from(ROOT, "prod-aks", Layer.SLOT)
    outputs = {"clientId": "11111111-2222-3333-4444-555555555555", "kubeconfig": "{}", "identifier": "aks/a/b"}
    files = rendered_from(ROOT, "prod-aks", Layer.SLOT, outputs).files
    assert outputs["clientId"] in files["serviceaccount-inferstack-blue.yaml"]


def test_a_chart_is_named_and_what_azure_said_of_its_gateway_is_written(tmp_path: Path) -> None:
    """Application Gateway for Containers: its controller is a chart, its Gateway names what Azure made."""
    (tmp_path / "stacks").mkdir()
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    for file in (ROOT / "stacks/__main__.py", ROOT / "tests/engine/stacks/Pulumi.services-aks.yaml"):
        shutil.copy(file, tmp_path / "stacks")
    with pytest.raises(NotRenderable, match="alb-id"):
        rendered_from(tmp_path, "services-aks", Layer.PLATFORM)
    known = {
        "services-aks-group": {"name": "group1"},
        "servicesaksweights": {"name": "account1"},
        "services-aks-weights": {"name": "weights"},
        "services-aks-workload": {"clientId": "client1"},
        "services-aks-gateway-controller": {"id": "/controllers/one"},
        "services-aks-gateway-association": {"id": "/associations/one"},
        "services-aks-gateway-frontend": {"name": "front1"},
    }
    rendered = rendered_from(tmp_path, "services-aks", Layer.PLATFORM, {"known": known})
    gateway = yaml.safe_load(rendered.files["gateway-inferstack.yaml"])
    assert gateway["metadata"]["annotations"]["alb.networking.azure.io/alb-id"] == "/controllers/one"
    assert gateway["spec"]["addresses"][0]["value"] == "front1"
    assert [chart.rpartition("/")[2] for chart in rendered.charts] == ["alb-controller"]


def test_what_the_cloud_said_of_its_resources_makes_the_platform_renderable() -> None:
    known = {
        "prod-aks-group": {"name": "group1"},
        "prodaksweights": {"name": "account1"},
        "prod-aks-weights": {"name": "weights"},
        "prod-aks-workload": {"clientId": "client1"},
    }
    with pytest.raises(NotRenderable, match="storageAccount"):
        rendered_from(ROOT, "prod-aks", Layer.PLATFORM)
    files = rendered_from(ROOT, "prod-aks", Layer.PLATFORM, {"known": known}).files
    volume = yaml.safe_load(files["persistentvolume-inferstack-weights-inferstack.yaml"])["spec"]["csi"]["volumeAttributes"]
    assert (volume["storageAccount"], volume["containerName"], volume["resourceGroup"]) == ("account1", "weights", "group1")
    assert volume["clientID"] == "client1"


def test_an_object_that_is_gone_loses_its_file_and_other_files_are_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(rendered_from(ROOT, "kubernetes"), folder)
    write(rendered_from(ROOT, "kubernetes", Layer.SLOT), folder)
    assert not (folder / "httproute-inferstack.yaml").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        write(rendered_from(ROOT, "kubernetes", Layer.SLOT), tmp_path / "other")
    assert (tmp_path / "other/notes.txt").read_text() == "mine"


def test_the_command_says_what_it_wrote_and_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "kubernetes", "--out", str(tmp_path / "out"), "--project", str(ROOT), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == found["files"]
    assert found["secrets"] == ["inferstack/inferstack-keys"]


@pytest.mark.parametrize("name", ["kubernetes", "dev-gke"])
def test_what_is_rendered_passes_the_policies_also_where_its_environment_is_not_named(name: str, tmp_path: Path) -> None:
    write(rendered_from(ROOT, name), tmp_path / "out")
    assert run(["policy", "check", str(tmp_path / "out")]) == 0
