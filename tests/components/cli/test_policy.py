"""`inferstack policy check` on rendered YAML."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.cli import run

ROOT = Path(__file__).parents[3]
SERVICE: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": {"type": "NodePort"}}
CONFIG: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": {"a": "b"}}


def write(folder: Path, *documents: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(documents))
    return folder


def test_a_broken_rule_ends_with_3_and_names_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "check", str(write(tmp_path / "deep/er", CONFIG, SERVICE).parent)]) == 3
    shown = capsys.readouterr().out
    assert "Service/s: spec.type" in shown
    assert "[service-public]" in shown
    assert "ClusterIP" in shown


def test_objects_that_keep_the_rules_end_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "check", str(write(tmp_path, CONFIG)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"resources": 1, "findings": []}


def test_lists_are_taken_apart_and_a_kustomization_is_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [SERVICE, CONFIG]}
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["objects.yaml"]}
    assert run(["policy", "check", str(write(tmp_path, listed, kustomization)), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["resources"] == 2


def test_the_environment_gives_production_and_waivers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = tmp_path / "project"
    (project / "stacks").mkdir(parents=True)
    (project / "Pulumi.yaml").touch()
    waiver = {"rule": "service-public", "path": "Service/s", "reason": "measured by hand", "owner": "ops", "expires": "2999-12-31"}
    document = yaml.safe_load((ROOT / "stacks/Pulumi.kubernetes.yaml").read_text())
    document["config"]["inferstack:environment"]["waivers"] = [waiver]
    (project / "stacks/Pulumi.e.yaml").write_text(yaml.safe_dump(document))
    rendered = str(write(tmp_path / "out", SERVICE))
    assert run(["policy", "check", rendered, "--environment", "e", "--project", str(project)]) == 0
    assert "Accepted by ops until 2999-12-31" in capsys.readouterr().out


def test_images_come_from_the_registries_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"image": "docker.io/x"}]},
    }
    run(["policy", "check", str(write(tmp_path, pod)), "--registry", "ghcr.io/inferstack/", "--json"])
    assert "image-registry" in {finding["rule"] for finding in json.loads(capsys.readouterr().out)["findings"]}


@pytest.mark.parametrize("text", ["a: [", "just text", "kind: Service"])
def test_what_is_no_object_is_an_error_that_names_the_file(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert run(["policy", "check", str(tmp_path)]) == 2
    assert "x.yaml" in capsys.readouterr().err


def test_a_folder_without_objects_is_not_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "check", str(tmp_path)]) == 2
    assert "no Kubernetes objects" in capsys.readouterr().err


def test_the_rules_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "rules", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rules"]
    assert len(rows) >= 45
    assert all(row["reason"] and row["fix"] for row in rows)
