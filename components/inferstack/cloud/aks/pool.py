"""AksGpuPool: GPU nodes on Ubuntu, with an on-demand floor beside a spot pool."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_azure_native as azure

from inferstack.cloud.pools import Part, check_pool, parts
from inferstack.cluster.names import ACCELERATOR_LABEL, GPU_TAINT

CAPACITIES = ("on_demand", "spot", "reservation")
_RESERVATION_ACTIONS = ("read", "deploy/action", "capacityReservations/read")
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
    control_plane_identity: NotRequired[pulumi.Input[str]]
    """Object id of the cluster's identity, which is let use the reservation; without it somebody else has assigned that role."""
    disk_gb: NotRequired[int]
    """Boot disk of a node in GB; by default as AKS gives it, by machine type."""
    driver: NotRequired[str]
    """default or latest (installed by AKS), or disabled."""
    partition: NotRequired[str]
    """MIG profile, for instance `1g.10gb`."""


class AksGpuPool(pulumi.ComponentResource):
    """One agent pool, and a second one for the on-demand floor. The escape hatch is `pools`, the native resources by name."""

    names: pulumi.Output[list[str]]
    """Names of the agent pools."""

    def __init__(self, name: str, args: AksGpuPoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_pool(f"AksGpuPool {name}", args, CAPACITIES)
        super().__init__("inferstack:index:AksGpuPool", name, {**args}, opts)
        allowed = self._use_reservation(name, args)
        self.pools = {part.role: self._pool(part.name(name), args, part, allowed) for part in parts(args)}
        self.names = pulumi.Output.all(*[pool.name for pool in self.pools.values()]).apply(list)
        self.register_outputs({"names": self.names})

    def _use_reservation(self, name: str, args: AksGpuPoolArgs) -> list[pulumi.Resource]:
        """What the cluster's identity needs to put nodes into a reservation, on its resource group.

        Azure's page asks for Contributor there (learn.microsoft.com/azure/aks/use-capacity-reservation-groups); this is the part of it that
        deploying into a group takes.
        """
        if "control_plane_identity" not in args or not (reservation := args.get("reservation")):
            return []
        group, child = reservation.partition("/providers/")[0], pulumi.ResourceOptions(parent=self)
        role = azure.authorization.RoleDefinition(
            f"{name}-reservation-user",
            scope=group,
            role_name=f"{name} uses reserved capacity",
            role_type="CustomRole",
            assignable_scopes=[group],
            permissions=[{"actions": [f"Microsoft.Compute/capacityReservationGroups/{action}" for action in _RESERVATION_ACTIONS]}],
            opts=child,
        )
        assigned = azure.authorization.RoleAssignment(
            f"{name}-use-reservation",
            principal_id=args["control_plane_identity"],
            principal_type="ServicePrincipal",
            role_definition_id=role.id,
            scope=group,
            opts=child,
        )
        return [assigned]

    def _pool(self, name: str, args: AksGpuPoolArgs, part: Part, allowed: list[pulumi.Resource]) -> azure.containerservice.AgentPool:
        spot = part.capacity == "spot"
        partition = args.get("partition")
        return azure.containerservice.AgentPool(
            name,
            resource_group_name=args["resource_group"],
            resource_name_=args["cluster"],
            agent_pool_name=pool_name(name),
            mode="User",
            type="VirtualMachineScaleSets",
            os_type="Linux",
            os_sku="Ubuntu",
            vm_size=args["machine_type"],
            vnet_subnet_id=args["subnet"],
            os_disk_size_gb=args.get("disk_gb"),
            availability_zones=args.get("zones", []),
            enable_auto_scaling=True,
            count=part.least,
            min_count=part.least,
            max_count=part.most,
            node_labels={ACCELERATOR_LABEL: args["accelerator"]},
            node_taints=[f"{GPU_TAINT}=present:NoSchedule", *([f"{SPOT_TAINT}=spot:NoSchedule"] if spot else [])],
            gpu_profile={"driver": "None" if args.get("driver") == "disabled" else "Install"},
            gpu_instance_profile=f"MIG{partition.partition('.')[0]}" if partition else None,
            scale_set_priority="Spot" if spot else "Regular",
            scale_set_eviction_policy="Delete" if spot else None,
            spot_max_price=-1 if spot else None,
            scale_down_mode="Delete",
            capacity_reservation_group_id=args.get("reservation") if part.capacity == "reservation" else None,
            linux_os_config={
                "transparent_huge_page_enabled": "always",
                "transparent_huge_page_defrag": "defer+madvise",
                "sysctls": {"vm_max_map_count": 262144, "net_core_somaxconn": 16384},
            },
            upgrade_settings=None if spot else {"max_surge": "1", "drain_timeout_in_minutes": 15},
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["count"], depends_on=allowed),
        )


def pool_name(name: str) -> str:
    """The name as AKS takes it: at most 12 lower-case letters and digits, a letter first; the end, which tells pools apart, is kept."""
    letters = "".join(character for character in name.lower() if character.isalnum())
    return letters if len(letters) <= 12 and letters[:1].isalpha() else f"g{letters[-11:]}"
