"""The parts of resources that several rules look at."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inferstack_policies.model import Resource

WORKLOADS = frozenset(
    {"Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob", "LeaderWorkerSet"}
)
SERVED = frozenset({"Deployment", "StatefulSet", "LeaderWorkerSet"})
"""Workloads that stand and answer requests."""
GPU_RESOURCE = "nvidia.com/gpu"
SLOT_LABEL = "inferstack.dev/slot"
CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
DEVICE_PLUGINS = "/var/lib/kubelet/device-plugins"


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def words(value: Any) -> set[str]:
    """The texts of a list; what is no text there is none of the words that a rule looks for."""
    return {item for item in sequence(value) if isinstance(item, str)}


def at(value: Any, *keys: str) -> Any:
    """The value below `keys`, or None."""
    for key in keys:
        value = mapping(value).get(key)
    return value


def pod_templates(resource: Resource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, template) of every pod template; a template has `metadata` and `spec`."""
    if resource.kind not in WORKLOADS or not resource.is_kubernetes:
        return
    props = resource.props
    if resource.kind == "Pod":
        yield "", props
    elif resource.kind == "CronJob":
        yield "spec.jobTemplate.spec.template", mapping(at(props, "spec", "jobTemplate", "spec", "template"))
    elif resource.kind == "LeaderWorkerSet":
        for key in ("leaderTemplate", "workerTemplate"):
            template = at(props, "spec", "leaderWorkerTemplate", key)
            if template:
                yield f"spec.leaderWorkerTemplate.{key}", mapping(template)
    else:
        yield "spec.template", mapping(at(props, "spec", "template"))


def pod_specs(resource: Resource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, spec) of every pod of a workload."""
    for where, template in pod_templates(resource):
        yield f"{where}.spec".removeprefix("."), mapping(template.get("spec"))


def containers(resource: Resource, *, init: bool = True) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(where, container, pod spec) of every container; without `init` of those that stay as long as the pod: containers and sidecars."""
    for where, spec in pod_specs(resource):
        for key in CONTAINERS if init else ("containers", "initContainers"):
            for i, item in enumerate(sequence(spec.get(key))):
                container = mapping(item)
                if init or key == "containers" or container.get("restartPolicy") == "Always":
                    yield f"{where}.{key}[{i}]".removeprefix("."), container, spec


def images(resource: Resource) -> Iterator[tuple[str, str]]:
    """(where, reference) of every image that a workload runs or mounts."""
    for where, container, _ in containers(resource):
        yield f"{where}.image", str(container.get("image") or "")
    for where, spec in pod_specs(resource):
        for i, volume in enumerate(sequence(spec.get("volumes"))):
            if mapping(volume).get("image") is not None:
                yield f"{where}.volumes[{i}].image.reference", str(at(volume, "image", "reference") or "")


def labels_of_templates(resource: Resource) -> list[Mapping[str, Any]]:
    """Labels of each pod template."""
    return [mapping(at(template, "metadata", "labels")) for _, template in pod_templates(resource)]


def labels_of_pods(resource: Resource) -> Mapping[str, Any]:
    """Labels of the (first) pod template."""
    return next(iter(labels_of_templates(resource)), {})


def selects(selector: Any, labels: Mapping[str, Any]) -> bool:
    """Does a label selector (`matchLabels`, `matchExpressions`) choose these labels? An empty one chooses all, none chooses nothing."""
    wanted = mapping(at(selector, "matchLabels"))
    if not isinstance(selector, dict) or any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for item in map(mapping, sequence(at(selector, "matchExpressions"))):
        key, operator, values = str(item.get("key")), item.get("operator"), sequence(item.get("values"))
        present = key in labels
        holds = {
            "In": present and labels.get(key) in values,
            "NotIn": not present or labels.get(key) not in values,
            "Exists": present,
            "DoesNotExist": not present,
        }
        if not holds.get(str(operator), False):
            return False
    return True


def number(value: Any) -> float | None:
    """A finite number, also one written as text."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


_UNITS = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3} | {
    unit + binary: base**power for power, unit in enumerate("KMGTPE", 1) for binary, base in (("", 1000.0), ("i", 1024.0))
}


def quantity(value: Any) -> float | None:
    """A Kubernetes quantity (`1Gi`, `500m`, `0.5`, `1e3`) in base units; None for what is none."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]{0,2})", str(value).strip())
    size = number(found[1]) if found else None
    return None if found is None or size is None or found[2] not in _UNITS else size * _UNITS[found[2]]


def seconds(text: Any) -> float | None:
    """A duration of the Gateway API (`1h30m`, `600s`, `500ms`) in seconds."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    total, digits, unit = 0.0, "", ""
    for char in f"{text} ":
        if char.isdigit() or char == ".":
            if unit:
                size = number(digits)
                if unit not in units or size is None:
                    return None
                total, digits, unit = total + size * units[unit], "", ""
            digits += char
        elif char.isalpha():
            unit += char
        elif unit in units and (last := number(digits)) is not None:
            return total + last * units[unit]
    return None


def gpus(container: Mapping[str, Any]) -> Any:
    """What a container asks of `nvidia.com/gpu` or of a MIG slice, by limit or request; None: nothing."""
    resources = mapping(container.get("resources"))
    for section in ("limits", "requests"):
        for key, value in mapping(resources.get(section)).items():
            if key == GPU_RESOURCE or key.startswith("nvidia.com/mig-"):
                return value
    return None


def is_device_plugin(resource: Resource) -> bool:
    """A DaemonSet that touches one folder of the node, where the kubelet takes device plugins; root owns it, so they run as root."""
    mounted = [at(volume, "hostPath", "path") for _, spec in pod_specs(resource) for volume in sequence(spec.get("volumes"))]
    paths = [path for path in mounted if path is not None]
    return resource.kind == "DaemonSet" and bool(paths) and all(path == DEVICE_PLUGINS for path in paths)
