"""Where an environment's replicas run: machine type, pools, and how many nodes at rest, during a promotion and at most.

The Pulumi program takes its machine types from here too, so that what is planned is what is bought.
"""

import math
from dataclasses import dataclass

from inferstack.environment import Environment, GpuPool, Model, Platform, Replicas, Resources
from inferstack.environment.quantity import quantity
from inferstack.planning import catalogue, fit, prices, shapes
from inferstack.planning.catalogue import GIB, MIB, Machine


@dataclass(frozen=True, slots=True)
class Pool:
    """One node pool: its machine, and its nodes at rest (least load), during a promotion, and at most."""

    name: str
    machine: str | None
    gpus_per_node: int
    capacity: str
    at_rest: int
    during_promotion: int
    at_most: int


@dataclass(frozen=True, slots=True)
class Group:
    """Replicas of a slot that serve the same models on the same kind of node; `path` is where their bounds stand."""

    models: tuple[tuple[int, Model], ...]
    """With their position in `models`."""
    on_gpu: bool
    replicas: Replicas
    resources: Resources
    path: str
    replica_hourly_usd: float | None
    tokens_per_second: float | None
    """Price and speed of one replica, as the environment states them."""


def groups(environment: Environment) -> tuple[Group, ...]:
    """One group, on GPU nodes where there is a pool; with both tiers the fast models run on CPU nodes, the quality ones on GPU nodes."""
    slots, models, gpu = environment.slots, tuple(enumerate(environment.models)), environment.gpu is not None
    if len({model.tier for _, model in models}) == 1:
        return (Group(models, gpu, slots.replicas, slots.resources, "slots", slots.replica_hourly_usd, slots.replica_tokens_per_second),)
    fast = tuple(row for row in models if row[1].tier == "fast")
    quality = tuple(row for row in models if row[1].tier == "quality")
    own = slots.quality or slots
    return (
        Group(fast, False, slots.replicas, slots.resources, "slots", slots.replica_hourly_usd, slots.replica_tokens_per_second),
        Group(
            quality,
            gpu,
            own.replicas,
            own.resources,
            "slots.quality" if slots.quality else "slots",
            own.replica_hourly_usd,
            own.replica_tokens_per_second,
        ),
    )


def gpu_group(environment: Environment) -> Group | None:
    """The group on GPU nodes."""
    return next((group for group in groups(environment) if group.on_gpu), None)


def costly_group(environment: Environment) -> Group:
    """The replicas that cost most: those on GPUs, else the first that there are."""
    return gpu_group(environment) or groups(environment)[0]


def cpu_groups(environment: Environment) -> list[Group]:
    """The groups on CPU nodes."""
    return [group for group in groups(environment) if not group.on_gpu]


def gpu_models(environment: Environment) -> list[tuple[int, Model]]:
    """Models (with their position) that run on GPUs."""
    group = gpu_group(environment)
    return list(group.models) if group else []


def cpu_models(environment: Environment) -> list[tuple[int, Model]]:
    """Models that run without a GPU."""
    return [row for group in cpu_groups(environment) for row in group.models]


def served(model: Model) -> fit.Served | None:
    """The model with its architecture; None when the catalogue does not know it."""
    architecture = shapes.architecture(model)
    return fit.Served(architecture, model.quantization, model.context, model.source) if architecture else None


def gpus_per_pod(environment: Environment) -> int:
    """GPUs of one pod: those of a replica, spread over its pipeline stages."""
    gpu = environment.gpu
    return max(1, gpu.count // environment.engine.pipeline_parallel) if gpu else 0


def gpus_per_node(environment: Environment, machine: Machine) -> int:
    """GPUs of one node of the pool; a machine that GPUs are attached to gets the fewest that hold a pod."""
    wanted = gpus_per_pod(environment)
    if machine.attaches:
        return next((n for n in machine.counts if n >= wanted), machine.counts[-1])
    return machine.gpus


def pods_per_node(environment: Environment, machine: Machine) -> int:
    """Replicas (or stages of one) that a GPU node holds, by its GPUs and by the CPU and memory that they request."""
    gpu, group = environment.gpu, gpu_group(environment)
    assert gpu is not None
    assert group is not None
    units = gpus_per_node(environment, machine)
    kind = catalogue.gpu(gpu.accelerator)
    if gpu.sharing:
        units *= gpu.sharing
    elif gpu.partition and kind and gpu.partition in kind.mig:
        units *= fit.partitions_per_gpu(kind, gpu.partition)
    return max(1, min(units // gpus_per_pod(environment), _held(machine, group.resources)))


def _held(machine: Machine, resources: Resources) -> int:
    """Replicas that an empty node has CPU and memory for."""
    cores, memory = allocatable(machine)
    return min(int(cores // quantity(resources.cpu)), int(memory // quantity(resources.memory)))


def allocatable(machine: Machine) -> tuple[float, float]:
    """Cores and bytes of a node that pods can have: GKE's published reservations, which AKS's resemble.

    cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes: 6 % of the first core, 1 % of the next, 0.5 % of the next two,
    0.25 % of the rest; 25 % of the first 4 GiB, 20 % of the next 4, 10 % of the next 8, 6 % up to 128, 2 % above, and 100 MiB.
    """
    cores = 0.0
    for i in range(machine.vcpus):
        cores += 0.06 if i == 0 else 0.01 if i == 1 else 0.005 if i < 4 else 0.0025
    left, reserved = float(machine.memory), 100 * MIB
    for step, share in ((4 * GIB, 0.25), (4 * GIB, 0.20), (8 * GIB, 0.10), (112 * GIB, 0.06), (math.inf, 0.02)):
        part = min(left, step)
        reserved += int(part * share)
        left -= part
    return machine.vcpus - cores, machine.memory - reserved


def allocatable_disk(gpu: GpuPool, machine: Machine) -> float:
    """Bytes of ephemeral storage that pods of a GPU node can have.

    GKE (cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes): of a boot disk, 100 GB by default, a tenth is kept free and the
    least of half, 6 GiB and 35 %, or 100 GiB is reserved; of local SSDs of 375 GB each, a tenth and 50 GiB (one), 75 (two) or 100.
    AKS (learn.microsoft.com/azure/aks/concepts-storage): 128, 256, 512 or 1024 GB below 8, 16 and 64 vCPUs or from there on; a tenth is
    kept free.
    """
    if machine.platform == "aks":
        usual = next(size for vcpus, size in ((8, 128), (16, 256), (64, 512), (math.inf, 1024)) if machine.vcpus < vcpus)
        return 0.9 * (gpu.disk_gb or usual) * 1e9
    if gpu.local_ssd:
        return 0.9 * gpu.local_ssd * 375e9 - min(25 * (gpu.local_ssd + 1), 100) * GIB
    size = (gpu.disk_gb or 100) * 1e9
    return 0.9 * size - min(0.5 * size, 6 * GIB + 0.35 * size, 100 * GIB)


def holds(machine: Machine, resources: Resources) -> bool:
    """Do the requests of one replica fit on an empty node?"""
    cores, memory = allocatable(machine)
    return quantity(resources.cpu) <= cores and quantity(resources.memory) <= memory


def gpu_machine(environment: Environment) -> Machine | None:
    """The machine type of the GPU pool: the one named, else that whose nodes hold the replicas cheapest in the region.

    None where there is no GPU pool to buy, or where the named type, or any, does not carry the accelerator.
    """
    gpu, platform = environment.gpu, environment.platform.value
    if gpu is None or not catalogue.machines(platform):
        return None
    if gpu.machine_type:
        moved = catalogue.retired(platform, gpu.machine_type)
        named = catalogue.machines(platform).get(moved.use if moved else gpu.machine_type)
        return named if named and (moved or named.accelerator == gpu.accelerator) else None
    carriers = [
        m
        for m in catalogue.machines(platform).values()
        if m.accelerator == gpu.accelerator and max(m.counts) >= gpus_per_pod(environment) and gpu.capacity in m.capacity
    ]
    group = gpu_group(environment)
    fitting = [m for m in carriers if group and holds(m, group.resources)] or carriers
    return min(fitting, key=lambda m: (*_price_of_nodes(environment, m), m.vcpus, m.memory), default=None)


def _price_of_nodes(environment: Environment, machine: Machine) -> tuple[float, float]:
    """Price of the nodes at least load, and in a promotion then: a node of sixteen GPUs is no bargain for one replica."""
    gpu, group = environment.gpu, gpu_group(environment)
    assert gpu is not None
    assert group is not None
    count = gpus_per_node(environment, machine)
    price = prices.machine_price(machine.platform, machine.name, environment.region or "", gpu.capacity, count)
    if price is None:
        return math.inf, math.inf
    rest, promotion, _ = (gpu_nodes(environment, machine, max(1, n)) * price.hourly_usd for n in replicas_at_once(environment, group))
    return rest, promotion


def gpu_nodes(environment: Environment, machine: Machine, replicas: int) -> int:
    """Nodes that this many replicas, of both slots together, need."""
    if replicas <= 0:
        return 0
    stages = environment.engine.pipeline_parallel
    return max(stages, math.ceil(replicas * stages / pods_per_node(environment, machine)))


def system_machine(environment: Environment) -> Machine | None:
    """The machine type of the nodes for everything but models."""
    platform = environment.platform.value
    name = environment.cloud.system_machine_type or catalogue.system_machine(platform)
    return catalogue.machines(platform).get(name) if name else None


def cpu_pods_per_node(machine: Machine, group: Group) -> int:
    """Replicas of a group without GPUs that an empty node holds, at least one."""
    return max(1, _held(machine, group.resources))


def replicas_at_once(environment: Environment, group: Group) -> tuple[int, int, int]:
    """Replicas of both slots together: at rest, during a promotion at least load, and in a promotion at full load.

    The slot without weight keeps its `idle_replicas`. A promotion scales it to the live one before it moves weight, so that the live
    slot's number stands twice; at least one replica each.
    """
    bounds = group.replicas
    rest = bounds.min + min(environment.slots.idle_replicas, bounds.max)
    return rest, max(rest, 2 * max(1, bounds.min)), 2 * bounds.max


def pools(environment: Environment) -> tuple[Pool, ...]:
    """The node pools that the environment buys; none on a machine or cluster that is there already."""
    if environment.platform not in (Platform.GKE, Platform.AKS):
        return ()
    return (_system_pool(environment), *_gpu_pools(environment))


def _system_pool(environment: Environment) -> Pool:
    machine = system_machine(environment)
    name = environment.cloud.system_machine_type or catalogue.system_machine(environment.platform.value)
    bounds = environment.cloud.system_nodes
    needed = [0, 0, 0]
    for group in cpu_groups(environment) if machine else []:
        assert machine is not None
        held = cpu_pods_per_node(machine, group)
        needed = [n + math.ceil(replicas / held) for n, replicas in zip(needed, replicas_at_once(environment, group), strict=True)]
    rest, promotion, _ = (min(max(bounds.min, n), bounds.max) for n in needed)
    return Pool("system", name, 0, "on_demand", rest, promotion, bounds.max)


def _gpu_pools(environment: Environment) -> tuple[Pool, ...]:
    gpu, group, machine = environment.gpu, gpu_group(environment), gpu_machine(environment)
    if gpu is None or group is None:
        return ()
    if machine is None:
        return (Pool("gpu", gpu.machine_type, gpu.count, gpu.capacity, gpu.min_nodes, gpu.min_nodes, gpu.max_nodes),)
    floor = gpu.on_demand_floor
    rest, promotion, _ = (
        min(gpu.max_nodes, max(gpu.min_nodes, gpu_nodes(environment, machine, n) - floor)) for n in replicas_at_once(environment, group)
    )
    per_node = gpus_per_node(environment, machine)
    main = Pool("gpu", machine.name, per_node, gpu.capacity, rest, promotion, gpu.max_nodes)
    if not floor:
        return (main,)
    return (main, Pool("gpu-floor", machine.name, per_node, "on_demand", floor, floor, floor))
