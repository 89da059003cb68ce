"""AksGpuPool: GPU nodes on Ubuntu, with an on-demand floor beside a spot pool."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_azure_native as azure

from inferstack.cluster.names import ACCELERATOR_LABEL, GPU_TAINT

CAPACITIES = ("on_demand", "spot", "reservation")
SPOT_TAINT = "kubernetes.azure.com/scalesetpriority"


class AksGpuPoolArgs(TypedDict):
    """Arguments of an AksGpuPool."""

    resource_group: pulumi.Input[str]
    """Resource group of the cluster."""
    cluster: pulumi.Input[str]
    """Name of the cluster."""
    subnet: pulumi.Input[str]
    """Id of the nodes' subnet."""
    accelerator: str
    """GPU, for instance `nvidia-tesla-t4`."""
    machine_type: pulumi.Input[str]
    """Machine type that carries it."""
    capacity: NotRequired[str]
    """on_demand (default), spot or reservation."""
    on_demand_floor: NotRequired[int]
    """Nodes bought on demand beside a spot pool, so that a stock-out never takes the last replica; 0 by default."""
    min_nodes: NotRequired[int]
    """Fewest nodes; 0 by default."""
    max_nodes: NotRequired[int]
    """Most nodes; 1 by default."""
    zones: NotRequired[list[str]]
    """Availability zones of the nodes; by default none is asked for."""
    reservation: NotRequired[str]
    """Id of the capacity reservation group (`capacity: reservation`)."""
    driver: NotRequired[str]
    """default or latest (installed by AKS), or disabled."""
    partition: NotRequired[str]
    """MIG profile, for instance `1g.10gb`."""


class AksGpuPool(pulumi.ComponentResource):
    """One agent pool, and a second one for the on-demand floor. The escape hatch is `pools`, the native resources by name."""

    names: pulumi.Output[list[str]]
    """Names of the agent pools."""

    def __init__(self, name: str, args: AksGpuPoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check(name, args)
        super().__init__("inferstack:index:AksGpuPool", name, {**args}, opts)
        capacity, floor = args.get("capacity", "on_demand"), args.get("on_demand_floor", 0)
        self.pools = {"main": self._pool(name, pool_name(name), args, capacity, args.get("min_nodes", 0), args.get("max_nodes", 1))}
        if floor and capacity != "on_demand":
            self.pools["floor"] = self._pool(f"{name}-floor", pool_name(f"{name}floor"), args, "on_demand", floor, floor)
        self.names = pulumi.Output.all(*[pool.name for pool in self.pools.values()]).apply(list)
        self.register_outputs({"names": self.names})

    def _pool(
        self, name: str, agent_pool: str, args: AksGpuPoolArgs, capacity: str, least: int, most: int
    ) -> azure.containerservice.AgentPool:
        spot = capacity == "spot"
        partition = args.get("partition")
        return azure.containerservice.AgentPool(
            name,
            resource_group_name=args["resource_group"],
            resource_name_=args["cluster"],
            agent_pool_name=agent_pool,
            mode="User",
            type="VirtualMachineScaleSets",
            os_type="Linux",
            os_sku="Ubuntu",
            vm_size=args["machine_type"],
            vnet_subnet_id=args["subnet"],
            availability_zones=args.get("zones", []),
            enable_auto_scaling=True,
            count=least,
            min_count=least,
            max_count=most,
            node_labels={ACCELERATOR_LABEL: args["accelerator"]},
            node_taints=[f"{GPU_TAINT}=present:NoSchedule", *([f"{SPOT_TAINT}=spot:NoSchedule"] if spot else [])],
            gpu_profile={"driver": "None" if args.get("driver") == "disabled" else "Install"},
            gpu_instance_profile=f"MIG{partition.partition('.')[0]}" if partition else None,
            scale_set_priority="Spot" if spot else "Regular",
            scale_set_eviction_policy="Delete" if spot else None,
            spot_max_price=-1 if spot else None,
            scale_down_mode="Delete",
            capacity_reservation_group_id=args.get("reservation") if capacity == "reservation" else None,
            linux_os_config={
                "transparent_huge_page_enabled": "always",
                "transparent_huge_page_defrag": "defer+madvise",
                "sysctls": {"vm_max_map_count": 262144, "net_core_somaxconn": 16384},
            },
            upgrade_settings=None if spot else {"max_surge": "1", "drain_timeout_in_minutes": 15},
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["count"]),
        )


def check(name: str, args: AksGpuPoolArgs) -> None:
    """Refuse what cannot work, before anything is made; raises ValueError."""
    capacity = args.get("capacity", "on_demand")
    if capacity not in CAPACITIES:
        raise ValueError(f"AksGpuPool {name}: capacity is {capacity!r}: expected one of {', '.join(CAPACITIES)}")
    if (capacity == "reservation") != bool(args.get("reservation")):
        raise ValueError(f"AksGpuPool {name}: reservation names a capacity reservation group exactly when capacity is reservation")
    if args.get("min_nodes", 0) > args.get("max_nodes", 1):
        raise ValueError(f"AksGpuPool {name}: min_nodes {args.get('min_nodes', 0)} is more than max_nodes {args.get('max_nodes', 1)}")


def pool_name(name: str) -> str:
    """The name as AKS takes it: at most 12 lower-case letters and digits, a letter first; the end, which tells pools apart, is kept."""
    letters = "".join(character for character in name.lower() if character.isalnum())
    return letters if len(letters) <= 12 and letters[:1].isalpha() else f"g{letters[-11:]}"
