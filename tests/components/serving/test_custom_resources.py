"""Objects of custom resources that no test cluster has: checked strictly against the definitions of the released modules."""

import copy
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from inferstack.cluster.secrets import external_secrets
from inferstack.environment import SlotName
from inferstack.serving.manifests.scaling import scaler
from inferstack.serving.manifests.slot import slot_objects
from tests.components.kubernetes import environment

MODULES = {
    "LeaderWorkerSet": ("sigs.k8s.io/lws@v0.8.0", "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml"),
    "ExternalSecret": (
        "github.com/external-secrets/external-secrets@v1.3.2",
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
    "ScaledObject": ("github.com/kedacore/keda/v2@v2.20.2", "config/crd/bases/keda.sh_scaledobjects.yaml"),
}
"""Kind: Go module, whose checksum the Go checksum database vouches for, and the file of the definition in it."""


@cache
def schema(kind: str, version: str) -> dict[str, Any]:
    """The schema of one version of a kind, closed: a field that it does not name is an error, as for a strict API server."""
    module, file = MODULES[kind]
    if shutil.which("go") is None:
        pytest.skip("go not on PATH: the definitions are files of Go modules")
    done = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, timeout=300, cwd="/")
    found = json.loads(done.stdout or "{}")
    if "Dir" not in found:
        pytest.skip(f"{module} cannot be fetched: {found.get('Error', done.stderr)[:100]}")
    definition = yaml.safe_load((Path(found["Dir"]) / file).read_text(encoding="utf-8"))
    (wanted,) = (item for item in definition["spec"]["versions"] if item["name"] == version and item["served"])
    return closed(copy.deepcopy(wanted["schema"]["openAPIV3Schema"]), top=True)


def closed(part: Any, top: bool = False) -> Any:
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {key: closed(value) for key, value in part.items() if key != "properties"}
    if "properties" in part:
        found["properties"] = {name: closed(item) for name, item in part["properties"].items()}
    if "properties" in part and not part.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in part:
        found["additionalProperties"] = False
    if top:
        found["properties"]["metadata"] = {"type": "object"}
    return found


def wrong(manifest: dict[str, Any]) -> list[str]:
    version = manifest["apiVersion"].partition("/")[2]
    validator = jsonschema.Draft7Validator(schema(manifest["kind"], version))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in validator.iter_errors(manifest)]


SPANNING = {
    "gpu": {"accelerator": "nvidia-l4", "count": 4},
    "engine": {"kind": "vllm", "tensor_parallel": 2, "pipeline_parallel": 2},
}


@pytest.mark.parts
@pytest.mark.parametrize("production", [False, True])
@pytest.mark.parametrize("renderer", ["hpa", "none"])
def test_a_leader_worker_set_is_one_of_its_released_definition(renderer: str, production: bool) -> None:
    env = environment({**SPANNING, "production": production, "scaling": {"renderer": renderer}})
    for slot in SlotName:
        (group,) = slot_objects(env, slot, name="e", generation=1)
        assert group.workload["kind"] == "LeaderWorkerSet"
        assert wrong(group.workload) == []


@pytest.mark.parts
def test_an_external_secret_is_one_of_its_released_definition() -> None:
    env = environment({"secrets": {"name": "vault", "prefix": "prod-"}, "gateway": {"tls_secret": "certificate"}})
    objects = external_secrets(env)
    assert len(objects) >= 2
    for manifest in objects.values():
        assert wrong(manifest) == []


@pytest.mark.parts
@pytest.mark.parametrize("policy", ["queue", "cpu", "hybrid_smart"])
@pytest.mark.parametrize("shape", [{}, SPANNING], ids=["one pod", "many pods"])
def test_a_scaled_object_is_one_of_its_released_definition(policy: str, shape: dict[str, Any]) -> None:
    env = environment({**shape, "scaling": {"renderer": "keda", "policy": policy}, "monitoring": {"backend": "bundled"}})
    (group,) = slot_objects(env, SlotName.BLUE, name="e", generation=1)
    found = scaler(env, SlotName.BLUE, group.group, floor=1)
    assert found is not None
    assert wrong(found) == []


@pytest.mark.parts
def test_a_field_that_the_definition_does_not_name_is_found() -> None:
    (group,) = slot_objects(environment(SPANNING), SlotName.BLUE, name="e", generation=1)
    broken = copy.deepcopy(group.workload)
    broken["spec"]["leaderWorkerTemplate"]["workers"] = 3
    broken["spec"]["startupPolicy"] = "Whenever"
    assert len(wrong(broken)) == 2
