"""The Kubernetes objects of an environment as files, from the same program run as its plan.

One file per object and a kustomization, the same bytes for the same environment. Secrets are never written: they are references only.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inferstack.environment import Environment, Layer
from inferstack.program.plan import run_environment

_FIRST = (
    "Namespace",
    "PriorityClass",
    "ServiceAccount",
    "ConfigMap",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Service",
)
"""Kinds that others need, in the order in which they are listed; the rest follows by name."""
_HEADER = "# Written by `inferstack render`; run it again instead of editing.\n"
KUSTOMIZATION = "kustomization.yaml"
_CHARTS = "kubernetes:helm.sh/"
"""Type of what is installed as a whole, by Pulumi alone."""


class NotRenderable(Exception):
    """Objects hold values that only the cloud knows; `paths` names each."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(paths)
        super().__init__("values that only the cloud knows: " + ", ".join(self.paths))


@dataclass(frozen=True)
class Rendered:
    """Files by name, and what must exist beside them: Secrets, and charts that the platform stack installs."""

    files: Mapping[str, str]
    secrets: tuple[str, ...]
    charts: tuple[str, ...]


def render_environment(
    root: Path, name: str, environment: Environment, layer: Layer | None = None, outputs: Mapping[str, Any] | None = None
) -> Rendered:
    """Render the environment `name` of the project `root`; `outputs` are those of its platform stack, where slots need them
    (`pulumi stack output --json`).

    Raises run.ProgramFailed or NotRenderable.
    """
    runs = run_environment(root, name, environment, layer, outputs=outputs)
    resources = [item for stack in runs for item in stack.run.resources if item.type.startswith("kubernetes:")]
    charts = tuple(str(item.inputs["chart"]) for item in resources if item.type.startswith(_CHARTS))
    objects = [_object(item.inputs) for item in resources if not item.type.startswith(_CHARTS)]
    secrets = sorted({f"{environment.namespace}/{secret}" for item in objects for secret in _secrets(item)})
    wanted = sorted((item for item in objects if item["kind"] != "Secret"), key=_order)
    unknown = [f"{item['kind']} {item['metadata']['name']}: {path}" for item in wanted for path in _unknown(item, "")]
    if unknown:
        raise NotRenderable(unknown)
    files = {file_name(item, environment.namespace): _HEADER + dump(item) for item in wanted}
    listing = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(files)}
    return Rendered({**files, KUSTOMIZATION: _HEADER + dump(listing)}, tuple(secrets), charts)


def write(rendered: Rendered, folder: Path) -> None:
    """Write the files, and remove those of an earlier rendering that are gone.

    Raises FileExistsError for a folder that holds something else.
    """
    listing = folder / KUSTOMIZATION
    if folder.is_dir() and any(folder.iterdir()) and not (listing.is_file() and listing.read_text(encoding="utf-8").startswith(_HEADER)):
        raise FileExistsError(f"{folder} holds files that are no rendering")
    if listing.is_file():
        for stale in set(yaml.safe_load(listing.read_text(encoding="utf-8"))["resources"]) - set(rendered.files):
            (folder / Path(stale).name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in rendered.files.items():
        (folder / name).write_text(content, encoding="utf-8")


def file_name(manifest: Mapping[str, Any], namespace: str) -> str:
    """The file of an object, for instance `deployment-inferstack-blue.yaml`; one that stands in another namespace names it too."""
    meta = manifest["metadata"]
    other = f"{meta['namespace']}-" if meta.get("namespace", namespace) != namespace else ""
    return f"{manifest['kind'].lower()}-{other}{meta['name']}.yaml"


def dump(value: Any) -> str:
    """YAML with sorted keys, and text of several lines as it reads."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=True, default_flow_style=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _object(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The object without what only Pulumi reads."""
    found: dict[str, Any] = json.loads(json.dumps(inputs))
    annotations = found["metadata"].get("annotations", {})
    for key in [key for key in annotations if key.startswith("pulumi.com/")]:
        del annotations[key]
    if not annotations:
        found["metadata"].pop("annotations", None)
    return found


def _order(manifest: Mapping[str, Any]) -> tuple[int, str, str]:
    kind = manifest["kind"]
    return (_FIRST.index(kind) if kind in _FIRST else len(_FIRST), kind, manifest["metadata"]["name"])


def _unknown(value: Any, path: str) -> Iterable[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unknown(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, f"{path}[{index}]")
    elif isinstance(value, str) and "[unknown]" in value:
        yield path


def _secrets(manifest: Mapping[str, Any]) -> Iterable[str]:
    """Names of the Secrets that an object is, mounts or refers to."""
    if manifest["kind"] == "Secret":
        yield manifest["metadata"]["name"]
    for pod in _pods(manifest):
        yield from (volume["secret"]["secretName"] for volume in pod.get("volumes", ()) if "secret" in volume)
        yield from (pulled["name"] for pulled in pod.get("imagePullSecrets", ()))
        for container in pod.get("containers", ()):
            sources = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
            yield from (source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source)
    for listener in manifest.get("spec", {}).get("listeners", ()) if manifest["kind"] == "Gateway" else ():
        for certificate in listener.get("tls", {}).get("certificateRefs", ()):
            yield certificate["name"]


def _pods(manifest: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The pods that an object describes: those of its template, or of the leader and the workers of a set."""
    spec = manifest.get("spec", {})
    sets = spec.get("leaderWorkerTemplate", {})
    for template in (spec.get("template"), sets.get("leaderTemplate"), sets.get("workerTemplate")):
        if isinstance(template, Mapping):
            yield template.get("spec", {})
