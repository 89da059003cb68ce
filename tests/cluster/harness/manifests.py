"""The manifests of an environment, and the order in which an API server takes them."""

import copy
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
_FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "Secret", "ConfigMap", "PersistentVolumeClaim", "Service")


@functools.cache
def _planned(root: Path, name: str) -> str:
    command = [str(Path(sys.executable).parent / "inferstack"), "plan", name, "--json", "--project", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: planned, with findings
        raise RuntimeError(f"inferstack plan {name}: {done.stderr.strip()}")
    return done.stdout


def of_environment(root: Path, name: str) -> list[Manifest]:
    """Every Kubernetes object that `pulumi up` creates for the environment ``name``, by the real program.

    What only a cloud knows before it was created (an identity, an account) stands as `unknown` in it, and so does what is secret.
    """
    resources = json.loads(_planned(root, name).replace("[unknown]", "unknown"))["resources"]
    found = [one["inputs"] for one in resources if one["type"].startswith("kubernetes:")]
    objects = [one for one in found if {"apiVersion", "kind"} <= set(one)]
    for one in objects:
        if isinstance(one.get("stringData"), str):
            one["stringData"] = {"unknown": one["stringData"]}
    return in_order(objects)


def rendered(root: Path, name: str) -> list[Manifest]:
    """The same as files, as `inferstack render` writes them. Raises RuntimeError where a value is not known yet."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "inferstack"), "render", name, "--out", f"{folder}/rendered", "--project", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"inferstack render {name}: {done.stderr.strip()}")
        files = sorted(path for path in Path(folder, "rendered").rglob("*.yaml") if path.name != "kustomization.yaml")
        return in_order([one for path in files for one in yaml.safe_load_all(path.read_text()) if one])


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
    """The same objects with their restricted namespace replaced, the namespaces themselves left out."""
    kept = privileged(manifests)
    moved = copy.deepcopy([one for one in manifests if one["kind"] != "Namespace"])
    for one in moved:
        if one["metadata"].get("namespace") not in (None, *kept):
            one["metadata"]["namespace"] = namespace
    return moved


def privileged(manifests: list[Manifest]) -> set[str]:
    """Names of the namespaces for agents of the nodes, which hold devices and cannot be restricted."""
    enforce = "pod-security.kubernetes.io/enforce"
    return {
        one["metadata"]["name"]
        for one in manifests
        if one["kind"] == "Namespace" and one["metadata"]["labels"].get(enforce) == "privileged"
    }


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of that kind and name. Raises LookupError."""
    for one in manifests:
        if (one["kind"], one["metadata"]["name"]) == (kind, name):
            return one
    raise LookupError(f"no {kind} {name} among {[(one['kind'], one['metadata']['name']) for one in manifests]}")
