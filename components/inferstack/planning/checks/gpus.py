"""How are the GPUs bought and cut: capacity, reservation, slices, shares, nodes close together."""

import re
from collections.abc import Iterator

from inferstack.environment import Environment, GpuPool, Platform
from inferstack.planning import catalogue, placement
from inferstack.planning.checks import hardware
from inferstack.planning.findings import Finding


def capacity(e: Environment) -> Iterator[Finding]:
    """The machine type is sold in the way that the pool buys it."""
    gpu = e.gpu
    if gpu is None or e.platform not in (Platform.GKE, Platform.AKS):
        return
    if e.platform is Platform.AKS and gpu.capacity == "flex_start":
        message = "AKS has no flex-start capacity."
        yield Finding("capacity-not-offered", "error", "gpu.capacity", message, "use on_demand, spot or reservation.")
        return
    kind = catalogue.machines(e.platform.value).get(gpu.machine_type or "") or _only_kind(e, gpu)
    if kind and gpu.capacity not in kind.capacity:
        message = f"`{kind.name}` is sold as {' or '.join(kind.capacity)} only, not {gpu.capacity}."
        others = [m for m in hardware.carriers(e, 1) if gpu.capacity in catalogue.machines(e.platform.value)[m].capacity]
        instead = f", or machine_type {others[0]}" if others else ""
        yield Finding("capacity-not-offered", "error", "gpu.capacity", message, f"use capacity {kind.capacity[0]}{instead}.")


def _only_kind(e: Environment, gpu: GpuPool) -> catalogue.Machine | None:
    """Where nothing that carries the GPUs is sold this way: one that does, to say how it is sold."""
    if gpu.machine_type or placement.gpu_machine(e):
        return None
    names = hardware.carriers(e, placement.gpus_per_pod(e))
    return catalogue.machines(e.platform.value)[names[0]] if names else None


def flex_start(e: Environment) -> Iterator[Finding]:
    """Flex-start nodes come for what waits, and never stand by (cloud.google.com/kubernetes-engine/docs/concepts/dws)."""
    if e.gpu and e.gpu.capacity == "flex_start" and e.gpu.min_nodes and e.platform is Platform.GKE:
        message = f"a pool of flex-start nodes starts from none, and {e.gpu.min_nodes} are asked to stay."
        yield Finding(
            "flex-start-minimum", "error", "gpu.min_nodes", message, "set gpu.min_nodes to 0; on_demand_floor keeps nodes beside it."
        )


def driver(e: Environment) -> Iterator[Finding]:
    """Somebody installs a driver, and AKS has one version only."""
    if e.gpu and e.gpu.driver == "disabled" and e.platform in (Platform.GKE, Platform.AKS):
        message = "no driver is installed: nodes offer no GPU until somebody else's installer (the GPU Operator) has run."
        yield Finding("driver-missing", "warning", "gpu.driver", message, "leave it out, or waive this where you install one.")
    if e.gpu and e.gpu.driver == "latest" and e.platform is Platform.AKS:
        message = "it has no effect: AKS installs the one driver of its node image."
        yield Finding("setting-without-effect", "warning", "gpu.driver", message, "leave it out.")


def partition(e: Environment) -> Iterator[Finding]:
    """A MIG profile is one of the GPU, and is not shared by time as well."""
    gpu = e.gpu
    kind = catalogue.gpu(gpu.accelerator) if gpu else None
    if gpu is None or kind is None or not gpu.partition:
        return
    if not kind.mig:
        able = ", ".join(k.name for k in catalogue.gpus().values() if k.mig)
        message = f"`{kind.name}` cannot be partitioned."
        yield Finding("partition-unknown", "error", "gpu.partition", message, f"leave partition out (use gpu.sharing), or use {able}.")
    elif gpu.partition not in kind.mig:
        meant = catalogue.nearest(gpu.partition, kind.mig)
        message = f"`{gpu.partition}` is no profile of `{kind.name}`."
        yield Finding("partition-unknown", "error", "gpu.partition", message, f"use `{meant or kind.mig[0]}` of {', '.join(kind.mig)}.")
    elif e.platform is Platform.AKS and gpu.partition != (usual := _slice_of_aks(kind, gpu.partition)):
        message = f"AKS cuts a GPU by compute slices alone: `{gpu.partition}` would come as `{usual}`."
        fix = f"use `{usual}`, or the next larger of {', '.join(kind.mig)}."
        yield Finding("partition-unknown", "error", "gpu.partition", message, fix)
    elif placement.gpus_per_pod(e) > 1:
        message = "a model cannot be split over MIG slices."
        yield Finding("partition-split", "error", "gpu.partition", message, "leave partition out, or set gpu.count to 1.")
    if gpu.sharing:
        message = "a partitioned GPU is shared by time as well."
        yield Finding("partition-and-sharing", "error", "gpu.sharing", message, "set one of gpu.partition and gpu.sharing.")


def _slice_of_aks(kind: catalogue.Gpu, profile: str) -> str:
    """What AKS makes of `MIG1g` to `MIG7g`: the first profile of so many slices (learn.microsoft.com/azure/aks/gpu-multi-instance)."""
    return next(name for name in kind.mig if name.partition(".")[0] == profile.partition(".")[0])


def sharing(e: Environment) -> Iterator[Finding]:
    """GKE lets at most 48 clients share a GPU by time, with one share each (cloud.google.com/kubernetes-engine, timesharing-gpus).

    SGLang takes its part of what is free as it starts (model_runner.py, profile_max_num_token), so that clients would get ever less.
    """
    if e.gpu is None or not e.gpu.sharing:
        return
    path = "gpu.sharing"
    if e.platform is Platform.GKE and e.gpu.sharing > 48:
        message = f"{e.gpu.sharing} clients are to share a GPU, and GKE takes at most 48."
        yield Finding("sharing-too-many", "error", path, message, "set gpu.sharing to at most 48.")
    elif placement.gpus_per_pod(e) > 1 and not e.gpu.partition:
        message = f"a pod asks for {placement.gpus_per_pod(e)} GPUs, and shares of one say nothing of which GPU they are of."
        yield Finding("sharing-split", "error", path, message, "leave sharing out, or set gpu.count to 1.")
    elif e.engine.kind == "sglang":
        message = "sglang takes its part of the memory that is free as it starts: the clients of a GPU would get ever less."
        yield Finding("sharing-engine", "error", path, message, "use gpu.partition, or engine.kind vllm, or leave sharing out.")


_RESERVATIONS = {
    Platform.GKE: (
        r"(projects/[a-z][-a-z0-9.:]*/reservations/)?[a-z]([-a-z0-9]{0,61}[a-z0-9])?(/reservationBlocks/[a-z0-9-]+)?",
        "the name of a reservation, or projects/PROJECT/reservations/NAME for a shared one",
    ),
    Platform.AKS: (
        r"/subscriptions/[0-9a-fA-F-]{36}/resourceGroups/[^/\s]+/providers/Microsoft\.Compute/capacityReservationGroups/[^/\s]+",
        "the id of a capacity reservation group, as `az capacity reservation group show --query id` prints it",
    ),
}


def reservation(e: Environment) -> Iterator[Finding]:
    """A reservation is named as its cloud names it."""
    form = _RESERVATIONS.get(e.platform)
    if e.gpu and e.gpu.reservation and form and not re.fullmatch(form[0], e.gpu.reservation, re.IGNORECASE):
        message = f"`{e.gpu.reservation}` is no name of a reservation on {e.platform}."
        yield Finding("reservation-invalid", "error", "gpu.reservation", message, f"give {form[1]}.")


def compact_placement(e: Environment) -> Iterator[Finding]:
    """Nodes that stand close together stand in one zone (cloud.google.com/kubernetes-engine/docs/how-to/compact-placement)."""
    if e.gpu and e.gpu.compact_placement and len(e.gpu.zones) != 1:
        offering = catalogue.accelerator_zones(e.platform.value, e.gpu.accelerator).get(e.region or "", ())
        where = f"{len(e.gpu.zones)} zones" if e.gpu.zones else "all zones of the region"
        message = f"compact placement holds within one zone, and the pool has {where}."
        one = f", for instance [{offering[0]}]" if offering else ""
        yield Finding("placement-zones", "error", "gpu.zones", message, f"set gpu.zones to one zone{one}, or leave compact_placement out.")


def local_ssd(e: Environment) -> Iterator[Finding]:
    """A machine type takes certain numbers of local SSDs."""
    kind = placement.gpu_machine(e)
    if e.gpu and e.gpu.local_ssd and kind and kind.local_ssds and e.gpu.local_ssd not in kind.local_ssds:
        able = " or ".join(map(str, kind.local_ssds))
        message = f"a `{kind.name}` has {able} local SSDs, not {e.gpu.local_ssd}."
        yield Finding("local-ssd-count", "error", "gpu.local_ssd", message, f"set gpu.local_ssd to {able}, or leave it out.")


CHECKS = (capacity, flex_start, driver, partition, sharing, reservation, compact_placement, local_ssd)
