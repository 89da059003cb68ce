"""Names, labels and taints that every object of an environment shares; pure.

The names are fixed, so that a killed update leaves nothing twice.
"""

from collections.abc import Mapping

from inferstack.environment import SlotName

ROUTE = "inferstack"
GATEWAY = "inferstack"
ROUTE_TEMPLATE = "inferstack-route"
JOURNAL = "inferstack-journal"
LEASE = "inferstack-promotion"
CACHE = "inferstack-cache"
AUTOSCALER = "inferstack-autoscaler"

SLOT_LABEL = "inferstack.dev/slot"
COMPONENT_LABEL = "app.kubernetes.io/component"
GPU_RESOURCE = "nvidia.com/gpu"
GPU_TAINT = "nvidia.com/gpu"
"""Taint key of GPU nodes on both clouds; GKE sets it by itself, AKS pools are given it."""
ACCELERATOR_LABEL = "inferstack.dev/accelerator"
"""Label of GPU nodes that names the catalogue's accelerator; the same on both clouds."""


def slot_name(slot: SlotName, group: str = "") -> str:
    """Name of a slot's objects; a second group of replicas (a tier) carries its name as a suffix."""
    return f"inferstack-{slot}" + (f"-{group}" if group else "")


def registration_name(slot: SlotName, group: str = "") -> str:
    """ConfigMap with the bounds and the policy that this kit's autoscaler keeps to for a group of replicas."""
    return f"{slot_name(slot, group)}-scaling"


def slot_labels(slot: SlotName, group: str = "") -> dict[str, str]:
    """The three labels that select a slot's pods, and nothing else: never a version."""
    return component_labels("runtime" + (f"-{group}" if group else "")) | {SLOT_LABEL: str(slot)}


def worker_component(group: str = "") -> str:
    """Component label of the pods that help a leader to serve a replica: another than the leader's, so that no request reaches them."""
    return "runtime-worker" + (f"-{group}" if group else "")


def component_labels(component: str) -> dict[str, str]:
    """Labels of an object that belongs to no slot."""
    return {"app.kubernetes.io/name": "inferstack", COMPONENT_LABEL: component}


def metadata(
    name: str, namespace: str | None, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Object metadata with the label that says who manages it."""
    found: dict[str, object] = {"name": name, "labels": {**labels, "app.kubernetes.io/managed-by": "inferstack"}}
    if namespace:
        found["namespace"] = namespace
    if annotations:
        found["annotations"] = dict(annotations)
    return found
