"""GPUs go to who asked for them, and only those nodes cost their price."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.shapes import GPU_RESOURCE, WORKLOADS, at, containers, gpus, mapping, number, pod_specs, sequence

POOLS = frozenset({"NodePool", "AgentPool"})
_AZURE_GPU = ("Standard_NC", "Standard_ND", "Standard_NV", "Standard_NG")
_RETIRED = (
    "Standard_NC6s_v3",
    "Standard_NC12s_v3",
    "Standard_NC24s_v3",
    "Standard_NC24rs_v3",
    "Standard_NV6",
    "Standard_NV12",
    "Standard_NV24",
)
_SELECTORS = (
    "cloud.google.com/gke-accelerator",
    "nvidia.com/gpu",
    "accelerator",
    "agentpool",
    "kubernetes.azure.com/agentpool",
    "cloud.google.com/gke-nodepool",
    "inferstack.dev/accelerator",
    "inferstack.dev/pool",
    "nvidia.com/gpu.product",
    "nvidia.com/gpu.present",
    "kubernetes.azure.com/accelerator",
    "cloud.google.com/compute-class",
    "node.kubernetes.io/instance-type",
)


def machine(r: Resource) -> str:
    """Machine type of a node pool."""
    return str(at(r.props, "nodeConfig", "machineType") or r.props.get("vmSize") or "")


def pool_gpus(r: Resource) -> int:
    """GPUs of one node as far as the pool says; a GPU machine type counts as at least one."""
    attached = sum(int(number(mapping(item).get("count")) or 0) for item in sequence(at(r.props, "nodeConfig", "guestAccelerators")))
    carries = machine(r).startswith((*_AZURE_GPU, "g2-", "g4-", "a2-", "a3-", "a4-"))
    return attached or int(carries)


def is_spot(r: Resource) -> bool:
    return at(r.props, "nodeConfig", "spot") is True or r.props.get("scaleSetPriority") == "Spot"


def bounds(r: Resource) -> tuple[float | None, float | None]:
    """(least, most) nodes of a pool, None where it does not say."""
    scaling = mapping(r.props.get("autoscaling"))
    low = number(scaling.get("totalMinNodeCount", scaling.get("minNodeCount", r.props.get("minCount"))))
    high = number(scaling.get("totalMaxNodeCount", scaling.get("maxNodeCount", r.props.get("maxCount"))))
    fixed = number(r.props.get("nodeCount", r.props.get("count")))
    return (fixed if low is None else low), (fixed if high is None else high)


def whole(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        if gpus(container) is None:
            continue
        resources = mapping(container.get("resources"))
        for key in {*mapping(resources.get("limits")), *mapping(resources.get("requests"))}:
            if not key.startswith("nvidia.com/"):
                continue
            limit, request = number(at(resources, "limits", key)), number(at(resources, "requests", key))
            if limit is None or (request is not None and request != limit):
                yield f"{where}.resources", f"{key}: request {request} and limit {limit} must be the same."
            elif limit != int(limit) or limit < 1:
                yield f"{where}.resources.limits", f"{key}: {limit} is no whole number of GPUs."


def _tolerates(spec: Mapping[str, Any]) -> bool:
    for item in sequence(spec.get("tolerations")):
        toleration = mapping(item)
        if toleration.get("key") in (GPU_RESOURCE, None) and toleration.get("effect") in ("NoSchedule", None):
            return True
    return False


def _required(spec: Mapping[str, Any]) -> set[str]:
    """Node labels that the pod's affinity demands in every one of its terms."""
    terms = sequence(at(spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"))
    keys = [
        {
            str(mapping(item).get("key"))
            for item in sequence(mapping(term).get("matchExpressions"))
            if mapping(item).get("operator") != "NotIn"
        }
        for term in terms
    ]
    return set.intersection(*keys) if keys else set()


def placed(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    wants = {where.partition(".containers")[0].partition(".initContainers")[0] for where, c, _spec in containers(r) if gpus(c) is not None}
    for where, spec in pod_specs(r):
        if where not in wants:
            continue
        if not _tolerates(spec):
            yield f"{where}.tolerations", f"the pod wants a GPU and does not tolerate the taint {GPU_RESOURCE}: it stays pending."
        selector = mapping(spec.get("nodeSelector"))
        if not {*selector, *_required(spec)} & set(_SELECTORS):
            yield f"{where}.nodeSelector", "the pod does not say which GPU: any that is free is taken, at any price."


def not_squatting(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.kind == "DaemonSet":
        return
    wants = any(gpus(container) is not None for _, container, _spec in containers(r))
    for where, spec in pod_specs(r):
        if not wants and _tolerates(spec):
            yield f"{where}.tolerations", "the pod has no GPU and may take a GPU node's place."


def tainted(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if not pool_gpus(r):
        return
    taints = [str(mapping(t).get("key")) for t in sequence(at(r.props, "nodeConfig", "taints"))]
    taints += [str(t).partition("=")[0] for t in sequence(r.props.get("nodeTaints"))]
    if GPU_RESOURCE not in taints:
        yield (
            "nodeConfig.taints" if r.kind == "NodePool" else "nodeTaints",
            "any pod may land on these nodes and keep them from scaling down.",
        )


def maximum(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if bounds(r)[1] is None:
        yield "autoscaling" if r.kind == "NodePool" else "maxCount", "the pool has no upper bound."


def zero_minimum(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    low = bounds(r)[0]
    if pool_gpus(r) and not context.production and not is_spot(r) and low is not None and low > 1:
        yield "autoscaling" if r.kind == "NodePool" else "minCount", f"outside production {low:.0f} GPU nodes stand without load."


def spot_floor(resources: Sequence[Resource], context: Context) -> Iterator[Finding]:
    pools = [r for r in resources if r.kind in POOLS and pool_gpus(r)]
    floors = [r for r in pools if not is_spot(r) and (bounds(r)[0] or 0) >= 1]
    for pool in (r for r in pools if is_spot(r)):
        must = context.production or (bounds(pool)[0] or 0) > 0
        if must and not any(machine(floor) == machine(pool) for floor in floors):
            yield Finding(pool, "", "all GPU nodes of this kind are spot: an eviction or a stock-out takes the last replica.")


def current(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if machine(r) in _RETIRED:
        yield "vmSize", f"`{machine(r)}` was retired by Azure."


RULES = (
    Rule(
        "gpu-whole",
        "error",
        "GPUs are given whole and are never overbooked.",
        "Set request and limit of the GPU to the same whole number.",
        (),
        WORKLOADS,
        whole,
    ),
    Rule(
        "gpu-placed",
        "error",
        "Toleration and selector bring a pod to its GPU and to no other.",
        f"Add a toleration for {GPU_RESOURCE} and a nodeSelector of the accelerator.",
        (),
        WORKLOADS,
        placed,
    ),
    Rule(
        "gpu-not-squatted",
        "error",
        "A GPU node with one small pod on it never goes.",
        f"Leave the toleration for {GPU_RESOURCE} out.",
        (),
        WORKLOADS,
        not_squatting,
    ),
    Rule(
        "gpu-pool-tainted",
        "error",
        "The taint keeps everything else off nodes that cost the most.",
        f"Taint the pool {GPU_RESOURCE}=present:NoSchedule.",
        (),
        POOLS,
        tainted,
    ),
    Rule(
        "pool-maximum",
        "error",
        "The pool's most is the last bound of what can be spent.",
        "Set the pool's maximum of nodes.",
        (),
        POOLS,
        maximum,
    ),
    Rule(
        "pool-minimum",
        "warning",
        "GPU nodes that nobody uses are the largest item of most bills.",
        "Set the least to 0 or 1 outside production.",
        (),
        POOLS,
        zero_minimum,
    ),
    Rule(
        "spot-floor",
        "error",
        "Spot capacity is taken back.",
        "Put an on-demand pool of the same machine type with at least one node beside it.",
        (),
        check_stack=spot_floor,
    ),
    Rule(
        "machine-retired",
        "error",
        "A retired machine type cannot be bought.",
        "Use a size of today, for instance Standard_NC24ads_A100_v4.",
        (),
        POOLS,
        current,
    ),
)
