"""The manifests of an environment, and the order in which an API server takes them."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
_FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "Secret", "ConfigMap", "PersistentVolumeClaim", "Service")


def of_environment(root: Path, name: str) -> list[Manifest]:
    """Every Kubernetes object that `pulumi up` creates for the environment ``name``, by the real program."""
    command = [str(Path(sys.executable).parent / "inferstack"), "plan", name, "--json", "--project", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: planned, with findings
        raise RuntimeError(f"inferstack plan {name}: {done.stderr.strip()}")
    resources = json.loads(done.stdout)["resources"]
    found = [one["inputs"] for one in resources if one["type"].startswith("kubernetes:")]
    return in_order([one for one in found if {"apiVersion", "kind"} <= set(one)])


def in_order(manifests: list[Manifest]) -> list[Manifest]:
    """Namespaces before what is in them, identities and settings before what mounts them."""
    return sorted(manifests, key=lambda one: _FIRST.index(one["kind"]) if one["kind"] in _FIRST else len(_FIRST))


def pods_of(manifests: list[Manifest]) -> list[Manifest]:
    """The pods that the workloads among ``manifests`` would make, as pods: only these are held against the Pod Security Standard."""
    pods = []
    for one in manifests:
        template = one.get("spec", {}).get("template")
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job") and template:
            metadata = {
                "name": one["metadata"]["name"],
                "namespace": one["metadata"]["namespace"],
                "labels": template["metadata"]["labels"],
            }
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])})
    return pods


def into_namespace(manifests: list[Manifest], namespace: str) -> list[Manifest]:
    """The same objects in another namespace, the namespace itself left out."""
    moved = copy.deepcopy([one for one in manifests if one["kind"] != "Namespace"])
    for one in moved:
        if "namespace" in one["metadata"]:
            one["metadata"]["namespace"] = namespace
    return moved


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of that kind and name. Raises LookupError."""
    for one in manifests:
        if (one["kind"], one["metadata"]["name"]) == (kind, name):
            return one
    raise LookupError(f"no {kind} {name} among {[(one['kind'], one['metadata']['name']) for one in manifests]}")
