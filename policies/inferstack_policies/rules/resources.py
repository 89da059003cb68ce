"""What a pod asks of its node: memory, processor, disk."""

from collections.abc import Iterator

from inferstack_policies.model import Context, Resource, Rule
from inferstack_policies.shapes import WORKLOADS, at, containers, quantity


def memory(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r, init=False):
        request, limit = at(container, "resources", "requests", "memory"), at(container, "resources", "limits", "memory")
        if limit is None:
            yield f"{where}.resources.limits.memory", "a leak takes the node's memory and its other pods."
        elif quantity(request) is None or quantity(request) != quantity(limit):
            yield f"{where}.resources.requests.memory", f"request {request} is not limit {limit}: the pod may be killed below its limit."


def requests(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r, init=False):
        for key in ("cpu", "memory"):
            if at(container, "resources", "requests", key) is None:
                yield f"{where}.resources.requests.{key}", f"no {key} is requested: the scheduler packs the node without it."


def ephemeral_storage(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r, init=False):
        for section in ("requests", "limits"):
            if at(container, "resources", section, "ephemeral-storage") is None:
                yield f"{where}.resources.{section}.ephemeral-storage", "a full disk of the node evicts its pods."


RULES = (
    Rule(
        "pod-memory-limit",
        "error",
        "Memory cannot be squeezed: what is promised must be there.",
        "Set memory request and limit to the same.",
        ("KSV-0018", "CKV_K8S_12", "CKV_K8S_13", "kube-score:container-resources"),
        WORKLOADS,
        memory,
    ),
    Rule(
        "pod-requests",
        "error",
        "Without requests a node is overbooked, and no scaler can compute a share.",
        "Set requests for cpu and memory.",
        ("KSV-0015", "KSV-0016", "CKV_K8S_10", "CKV_K8S_12"),
        WORKLOADS,
        requests,
    ),
    Rule(
        "pod-ephemeral-storage",
        "error",
        "Weights and logs fill disks.",
        "Set ephemeral-storage request and limit.",
        ("kube-score:container-ephemeral-storage-request-and-limit",),
        WORKLOADS,
        ephemeral_storage,
    ),
)
