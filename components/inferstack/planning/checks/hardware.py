"""Can it be bought there: accelerator, region, zones, machine types, and does a replica fit on a node."""

from collections.abc import Iterable, Iterator

from inferstack.environment import Environment, GpuPool, Platform
from inferstack.environment.kinds import LARGEST
from inferstack.environment.quantity import quantity
from inferstack.planning import catalogue, fit, placement
from inferstack.planning.findings import Finding


def accelerator(e: Environment) -> Iterator[Finding]:
    """The GPU is one of the catalogue, and the platform sells it."""
    if e.gpu is None:
        return
    name, path = e.gpu.accelerator, "gpu.accelerator"
    sold = catalogue.accelerators(e.platform.value)
    if catalogue.gpu(name) is None:
        meant = catalogue.gpu_meant(name)
        fix = f"use `{meant}`." if meant else f"use one of {', '.join(sold)}."
        yield Finding("accelerator-unknown", "error", path, f"`{name}` is no GPU of the catalogue.", fix)
    elif name not in sold:
        better = _similar(name, sold)
        message = f"no machine type of {e.platform} carries `{name}`."
        yield Finding("accelerator-not-sold", "error", path, message, f"use `{better}`, or one of {', '.join(sold)}.")


def _similar(name: str, sold: list[str]) -> str:
    """The GPU of the platform with the nearest memory that is not (a twentieth or more) less, else the largest."""
    wanted = catalogue.gpus()[name].memory * 0.95
    kinds = [catalogue.gpus()[other] for other in sold]
    enough = [kind for kind in kinds if kind.memory >= wanted]
    return min(enough, key=lambda k: k.memory).name if enough else max(kinds, key=lambda k: k.memory).name


def region(e: Environment) -> Iterator[Finding]:
    """The region exists, and has the accelerator."""
    known = catalogue.zones(e.platform.value)
    if not e.region or not known:
        return
    if e.region not in known:
        meant = _region_meant(e.region, known)
        fix = f"use `{meant}`." if meant else f"use one of {', '.join(sorted(known))}."
        yield Finding("region-unknown", "error", "region", f"{e.platform} has no region `{e.region}`.", fix)
        return
    if e.gpu is None or e.gpu.accelerator not in catalogue.accelerators(e.platform.value):
        return
    having = catalogue.accelerator_zones(e.platform.value, e.gpu.accelerator)
    if e.region not in having:
        near = sorted(having, key=lambda r: (r.partition("-")[0] != e.region.partition("-")[0] if e.region else True, r))
        here = [a for a in catalogue.accelerators(e.platform.value) if e.region in catalogue.accelerator_zones(e.platform.value, a)]
        instead = f", or gpu.accelerator: {here[0]}, which {e.region} has" if here else ""
        message = f"{e.region} has no `{e.gpu.accelerator}`."
        yield Finding("region-without-accelerator", "error", "region", message, f"use region {' or '.join(near[:3])}{instead}.")


def _region_meant(name: str, known: Iterable[str]) -> str | None:
    """The region that was probably meant: one of the other cloud's or of another cloud's spelling (`eu-west-4`) too."""
    area, _, rest = name.lower().partition("-")
    spelled = f"{ {'eu': 'europe', 'ap': 'asia'}.get(area, area) }-{rest.replace('-', '')}" if rest else name
    meant = _SAME_PLACE.get(spelled.lower(), spelled)
    return meant if meant in known else catalogue.nearest(spelled, known)


_SAME_PLACE = {
    "westeurope": "europe-west4",
    "northeurope": "europe-west1",
    "uksouth": "europe-west2",
    "eastus": "us-east4",
    "eastus2": "us-east4",
    "westus2": "us-west1",
    "centralus": "us-central1",
    "southeastasia": "asia-southeast1",
    "japaneast": "asia-northeast1",
} | {
    "europe-west4": "westeurope",
    "europe-west1": "westeurope",
    "us-east4": "eastus",
    "us-central1": "centralus",
    "us-west1": "westus2",
    "asia-southeast1": "southeastasia",
}
"""Regions of the two clouds near each other."""


def zones(e: Environment) -> Iterator[Finding]:
    """Every zone is one of the region, and has the accelerator."""
    if e.gpu is None or not e.region or e.region not in catalogue.zones(e.platform.value):
        return
    of_region = catalogue.zones(e.platform.value)[e.region]
    offering = catalogue.accelerator_zones(e.platform.value, e.gpu.accelerator).get(e.region)
    for i, zone in enumerate(e.gpu.zones):
        if zone not in of_region:
            message = f"`{zone}` is no zone of {e.region}."
            yield Finding("zone-unknown", "error", f"gpu.zones[{i}]", message, f"use {', '.join(offering or of_region)}.")
        elif offering and zone not in offering:
            message = f"`{zone}` has no `{e.gpu.accelerator}`."
            yield Finding("zone-without-accelerator", "error", f"gpu.zones[{i}]", message, f"use {', '.join(offering)}.")


def machine(e: Environment) -> Iterator[Finding]:
    """The machine type is sold, carries the accelerator, has enough of it, and is sold in this region and capacity."""
    gpu, platform = e.gpu, e.platform.value
    if gpu is None or not gpu.machine_type or not catalogue.machines(platform):
        return
    path, name = "gpu.machine_type", gpu.machine_type
    moved = catalogue.retired(platform, name)
    if moved:
        message = f"`{name}` was retired on {moved.since}; the plan counts `{moved.use}` in its place."
        gpus = catalogue.machines(platform)[moved.use].accelerator
        yield Finding("machine-retired", "error", path, message, f"use `{moved.use}` with gpu.accelerator: {gpus}.")
        return
    kind = catalogue.machines(platform).get(name)
    if kind is None:
        able = carriers(e, 1)
        elsewhere = next((cloud for cloud in ("gke", "aks") if name in catalogue.machines(cloud)), None)
        meant = None if elsewhere else catalogue.nearest(name, able) or catalogue.nearest(name, catalogue.machines(platform))
        fix = f"use `{meant}`." if meant else f"use one of {', '.join(able) or ', '.join(catalogue.machines(platform))}."
        said = (
            f"is a machine type of {elsewhere}, not of {platform}" if elsewhere else f"is no machine type of the catalogue for {platform}"
        )
        yield Finding("machine-unknown", "error", path, f"`{name}` {said}.", fix)
    elif kind.accelerator != gpu.accelerator:
        able = carriers(e, 1)
        carries = f"carries {kind.accelerator}" if kind.accelerator else "carries no GPU"
        fix = f"use {' or '.join(able[:3])}, or leave machine_type out." if able else "leave machine_type out."
        yield Finding("machine-without-accelerator", "error", path, f"`{name}` {carries}, not `{gpu.accelerator}`.", fix)
    else:
        yield from _count(e, kind)


def _count(e: Environment, kind: catalogue.Machine) -> Iterator[Finding]:
    per_pod = placement.gpus_per_pod(e)
    if per_pod > max(kind.counts):
        larger = carriers(e, per_pod)
        fix = f"use machine_type {larger[0]}" if larger else "split over nodes with engine.pipeline_parallel"
        message = f"a replica needs {per_pod} GPUs on one node and `{kind.name}` has at most {max(kind.counts)}."
        yield Finding("machine-too-few-gpus", "error", "gpu.count", message, f"{fix}, or lower gpu.count.")


def carriers(e: Environment, count: int) -> list[str]:
    assert e.gpu is not None
    return [m.name for m in catalogue.machines(e.platform.value).values() if m.accelerator == e.gpu.accelerator and max(m.counts) >= count]


def count(e: Environment) -> Iterator[Finding]:
    """Some machine type carries as many GPUs as one pod needs."""
    gpu = e.gpu
    if gpu is None or gpu.machine_type or gpu.accelerator not in catalogue.accelerators(e.platform.value):
        return
    if not catalogue.machines(e.platform.value):
        return
    per_pod = placement.gpus_per_pod(e)
    if not carriers(e, per_pod):
        most = max(max(m.counts) for m in catalogue.machines(e.platform.value).values() if m.accelerator == gpu.accelerator)
        message = f"a replica needs {per_pod} x `{gpu.accelerator}` on one node; machine types of {e.platform} have at most {most}."
        yield Finding("machine-too-few-gpus", "error", "gpu.count", message, f"set gpu.count to {most} or use a GPU with more memory.")


def system_machine(e: Environment) -> Iterator[Finding]:
    """The machine type of the system pool is sold."""
    platform, name = e.platform.value, e.cloud.system_machine_type
    if not name or not catalogue.machines(platform):
        return
    if sold := catalogue.machines(platform).get(name):
        if sold.accelerator and not sold.attaches:
            message = f"`{name}` carries {sold.gpus} x {sold.accelerator}, and nothing on the system pool uses a GPU."
            fix = f"use `{catalogue.system_machine(platform)}`; GPUs of models are those of `gpu`."
            yield Finding("system-machine-with-gpu", "warning", "cloud.system_machine_type", message, fix)
        return
    moved = catalogue.retired(platform, name)
    cpu = [m.name for m in catalogue.machines(platform).values() if not m.accelerator]
    meant = moved.use if moved else catalogue.nearest(name, cpu) or catalogue.system_machine(platform)
    message = f"`{name}` was retired on {moved.since}." if moved else f"`{name}` is no machine type of the catalogue for {platform}."
    rule = "machine-retired" if moved else "machine-unknown"
    yield Finding(rule, "error", "cloud.system_machine_type", message, f"use `{meant}`.")


def node_holds_replica(e: Environment) -> Iterator[Finding]:
    """The requests of a replica fit on an empty node; else its pods never start."""
    if e.platform not in (Platform.GKE, Platform.AKS):
        return
    for group in placement.groups(e):
        kind = placement.gpu_machine(e) if group.on_gpu else placement.system_machine(e)
        if kind is None or placement.holds(kind, group.resources):
            continue
        cores, memory = placement.allocatable(kind)
        wanted = f"{group.resources.cpu} CPU and {group.resources.memory}"
        message = f"a replica requests {wanted}; `{kind.name}` has {cores:.2f} CPU and {fit.gib(memory)} for pods."
        alike = (m for m in catalogue.machines(e.platform.value).values() if m.accelerator == kind.accelerator)
        larger = sorted((m for m in alike if placement.holds(m, group.resources)), key=lambda m: (m.vcpus, m.memory))
        where = "gpu.machine_type" if group.on_gpu else "cloud.system_machine_type"
        path = f"{group.path}.resources"
        fix = f"set {where} to {larger[0].name}, or lower {path}." if larger else f"lower {path}."
        yield Finding("replica-larger-than-node", "error", path, message, fix)


def disk_holds_replicas(e: Environment) -> Iterator[Finding]:
    """The ephemeral storage of the replicas that share a node fits on its disk; else their pods never start."""
    kind, group = placement.gpu_machine(e), placement.gpu_group(e)
    if e.gpu is None or kind is None or group is None or (kind.comes_with_ssds and not e.gpu.local_ssd):
        return  # without a word from the file, what GKE does with the disks that come with a machine differs by its version
    wanted = quantity(group.resources.ephemeral_storage) * placement.pods_per_node(e, kind)
    there = placement.allocatable_disk(e.gpu, kind)
    if wanted > there:
        more = next(gb for gb in (200, 300, 500, 1000, 2000, 4000, 8000, 16_000, LARGEST) if _holds(e.gpu, kind, gb, wanted))
        message = f"replicas of one node request {fit.gib(wanted)} of ephemeral storage; a `{kind.name}` has {fit.gib(there)} for pods."
        larger = f"set gpu.disk_gb to {more}, or " if more < LARGEST and not e.gpu.local_ssd else ""
        yield Finding("disk-too-small", "error", "gpu.disk_gb", message, f"{larger}lower {group.path}.resources.ephemeral_storage.")


def _holds(gpu: GpuPool, kind: catalogue.Machine, gigabytes: int, wanted: float) -> bool:
    return placement.allocatable_disk(gpu.model_copy(update={"disk_gb": gigabytes}), kind) >= wanted or gigabytes == LARGEST


def huge_pages(e: Environment) -> Iterator[Finding]:
    """Huge pages leave memory for everything else.

    GKE takes at most six tenths of a node with less than 30 GB, eight tenths of others (docs/how-to/node-system-config).
    """
    kind = placement.gpu_machine(e)
    if not e.cloud.huge_pages or kind is None:
        return
    most = int(kind.memory * (0.6 if kind.memory < 30 * catalogue.GIB else 0.8)) // (2 * catalogue.MIB)
    if e.cloud.huge_pages > most:
        message = (
            f"{e.cloud.huge_pages} huge pages are {fit.gib(e.cloud.huge_pages * 2 * catalogue.MIB)} of a node's {fit.gib(kind.memory)}."
        )
        yield Finding("huge-pages-too-many", "error", "cloud.huge_pages", message, f"set cloud.huge_pages to at most {most}.")


CHECKS = (accelerator, region, zones, machine, count, system_machine, node_holds_replica, huge_pages)
ON_HARDWARE = (disk_holds_replicas,)
