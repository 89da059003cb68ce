"""kubeconform and kube-score on the objects of every environment: strict schemas, custom resources by their own definitions, and no
finding that is not explained."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from machine.build import CannotBuild, custom_resources

from inferstack.cluster.monitoring import monitoring_objects
from inferstack.environment import environment_names
from inferstack.program.plan import plan_environment
from tests.components.kubernetes import environment

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PROGRAMS = {
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    "kube-score": "github.com/zegl/kube-score/cmd/kube-score@v1.20.0",
}
WITHOUT_DEFINITION = {
    "monitoring.googleapis.com/v1/Rules": "no package holds the definitions of Google Managed Prometheus",
    "monitoring.googleapis.com/v1/PodMonitoring": "no package holds the definitions of Google Managed Prometheus",
    "azmonitoring.coreos.com/v1/PodMonitor": "no package holds the definitions of Azure Monitor",
    "networking.gke.io/v1/HealthCheckPolicy": "no package holds the definitions of GKE's gateway",
    "networking.gke.io/v1/GCPBackendPolicy": "no package holds the definitions of GKE's gateway",
}
pytestmark = [pytest.mark.parts, pytest.mark.slow, pytest.mark.timeout(1200)]


def program(name: str) -> str:
    """The program from PATH, else built once from its Go module."""
    if found := shutil.which(name):
        return found
    go = shutil.which("go")
    if go is None:
        pytest.skip(f"no {name} on PATH and no Go to build it with")
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "inferstack-tools" / PROGRAMS[name].rpartition("@")[2] / name
    if not (home / name).exists():
        done = subprocess.run([go, "install", PROGRAMS[name]], env=os.environ | {"GOBIN": str(home)}, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{name} could not be built: {done.stderr.strip().splitlines()[-1]}")
    return str(home / name)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file per environment with its Kubernetes objects."""
    folder = tmp_path_factory.mktemp("rendered")
    for name in environment_names(ROOT / "stacks"):
        planned = [
            item.inputs for item in plan_environment(ROOT, name).resources if item.type.startswith("kubernetes:") and "kind" in item.inputs
        ]
        if planned:
            objects = json.loads(json.dumps(planned))
            (folder / f"{name}.yaml").write_text(yaml.safe_dump_all([known(item) for item in objects]))
    for backend in ("bundled", "operator"):  # no environment of stacks/ has these
        found = monitoring_objects(environment({"monitoring": {"backend": backend}}), "prod")
        (folder / f"monitoring-{backend}.yaml").write_text(yaml.safe_dump_all(json.loads(json.dumps(list(found.values())))))
    assert len(list(folder.iterdir())) > 10
    return folder


def known(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without what a plan does not show: the whole of a secret value."""
    return {key: value for key, value in manifest.items() if value != "[secret]"}


def strict(schema: Any) -> Any:
    """A definition's schema in which an unknown field is an error, as an API server with field validation has it."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    closed = "properties" in schema and isinstance(schema["properties"], dict) and schema.get("type") == "object"
    if closed and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        found = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    return found


def definitions() -> Iterator[tuple[str, dict[str, Any]]]:
    """File name as kubeconform looks it up, and schema, of every version of every custom resource of the pinned modules."""
    for file in custom_resources():
        for document in yaml.safe_load_all(file.read_text()):
            if document is None or document["kind"] != "CustomResourceDefinition":
                continue
            group, kind = document["spec"]["group"], document["spec"]["names"]["kind"]
            for version in document["spec"]["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {"metadata": {"type": "object"}}
                yield f"{kind}-{group.partition('.')[0]}-{version['name']}.json".lower(), schema


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    try:
        found = dict(definitions())
    except (CannotBuild, FileNotFoundError) as error:
        pytest.skip(f"no definitions of custom resources: {error}")
    for name, schema in found.items():
        (folder / name).write_text(json.dumps(schema))
    return folder


def built_in(kind: str, api: str) -> tuple[str, dict[str, Any]] | None:
    """As `definitions`, of an object of Kubernetes itself; None for another. What it refers to is put into it."""
    folder = Path(str(files("kubernetes_validate"))) / "kubernetes-json-schema" / f"v{kubernetes_validate.latest_version()}-local-strict"
    group, _, version = api.rpartition("/")
    name = "-".join(filter(None, (kind, group.partition(".")[0], version))).lower() + ".json"
    if not (folder / name).exists():
        return None
    schema, shared = (json.loads((folder / part).read_text()) for part in (name, "_definitions.json"))
    return name, schema | shared  # with the `$id` that its references name


def conform(folder: Path, schemas: Path) -> list[dict[str, Any]]:
    """What kubeconform says of every object below `folder`."""
    for item in (item for file in folder.iterdir() for item in yaml.safe_load_all(file.read_text())):
        if found := built_in(item["kind"], item["apiVersion"]):
            (schemas / found[0]).write_text(json.dumps(found[1]))
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    command = [program("kubeconform"), "-strict", "-output", "json", "-verbose", "-skip", ",".join(WITHOUT_DEFINITION)]
    done = subprocess.run([*command, "-schema-location", location, str(folder)], capture_output=True, text=True, timeout=300)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["resources"]
    return rows


def test_every_object_conforms_to_its_schema(rendered: Path, schemas: Path) -> None:
    rows = conform(rendered, schemas)
    states = {row["status"] for row in rows}
    wrong = [f"{row['kind']}/{row['name']}: {row['msg']}" for row in rows if row["status"] not in ("statusValid", "statusSkipped")]
    assert not wrong, "\n".join(wrong)
    assert "statusValid" in states
    skipped = {f"{row['version']}/{row['kind']}" for row in rows if row["status"] == "statusSkipped"}
    assert skipped <= set(WITHOUT_DEFINITION)
    assert {"PrometheusRule", "PodMonitor", "HTTPRoute"} <= {row["kind"] for row in rows if row["status"] == "statusValid"}


def test_an_unknown_field_is_noticed(rendered: Path, schemas: Path, tmp_path: Path) -> None:
    objects = [item for file in sorted(rendered.iterdir()) for item in yaml.safe_load_all(file.read_text())]
    for kind in ("PrometheusRule", "Deployment"):
        item = next(item for item in objects if item["kind"] == kind)
        item["spec"]["nobodyKnows"] = 1
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump(item))
    assert [row["status"] for row in conform(tmp_path, schemas)] == ["statusInvalid"] * 2


def test_kube_score_finds_nothing_that_is_not_explained(rendered: Path) -> None:
    explained = yaml.safe_load((HERE / "explained-kube-score.yaml").read_text())
    found = set()
    for file in rendered.iterdir():
        done = subprocess.run([program("kube-score"), "score", "-o", "json", str(file)], capture_output=True, text=True, timeout=300)
        for item in json.loads(done.stdout) or ():
            for check in item["checks"]:
                if not check["skipped"] and check["grade"] < 10 and check["comments"]:
                    name, where = check["check"]["id"], f"{item['type_meta']['kind']}/{item['object_meta']['name']}"
                    found.add(name if name in explained else f"{name} {where}")
    assert found == set(explained)
