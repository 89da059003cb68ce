"""GkeGpuPool: GPU nodes, bought in one of four ways, with an on-demand floor beside a pool that may be taken away."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_gcp as gcp

from inferstack.cloud.pools import Part, check_pool, parts
from inferstack.cluster.names import ACCELERATOR_LABEL, GPU_TAINT

_FLEX_START_SECONDS = 7 * 24 * 3600
"""Longest life of a flex-start node."""
CAPACITIES = ("on_demand", "spot", "reservation", "flex_start")


class GkeGpuPoolArgs(TypedDict):
    """Arguments of a GkeGpuPool."""

    project: pulumi.Input[str]
    """Google Cloud project."""
    region: pulumi.Input[str]
    """Region of the cluster."""
    cluster: pulumi.Input[str]
    """Name of the cluster."""
    node_service_account: pulumi.Input[str]
    """Identity of the nodes."""
    accelerator: str
    """GPU, for instance `nvidia-l4`."""
    machine_type: pulumi.Input[str]
    """Machine type that carries it."""
    gpus_per_node: NotRequired[int]
    """GPUs of one node; 1 by default."""
    capacity: NotRequired[str]
    """on_demand (default), spot, reservation or flex_start."""
    on_demand_floor: NotRequired[int]
    """Nodes bought on demand beside the pool, so that a stock-out never takes the last replica; 0 by default."""
    min_nodes: NotRequired[int]
    """Fewest nodes in the region; 0 by default."""
    max_nodes: NotRequired[int]
    """Most nodes in the region; 1 by default."""
    zones: NotRequired[list[str]]
    """Zones of the nodes; by default those of the cluster."""
    reservation: NotRequired[str]
    """Name of the reservation (`capacity: reservation`)."""
    driver: NotRequired[str]
    """default, latest or disabled."""
    partition: NotRequired[str]
    """MIG profile, for instance `1g.10gb`."""
    sharing: NotRequired[int]
    """Clients that share one GPU by time slices."""
    disk_gb: NotRequired[int]
    """Boot disk of a node in GB; 100 by default."""
    local_ssd: NotRequired[int]
    """Local SSDs of a node that hold the ephemeral storage."""
    image_disk: NotRequired[str]
    """Disk image with container images that is attached to each node."""
    compact_placement: NotRequired[bool]
    """Nodes close together."""
    huge_pages: NotRequired[int]
    """2 MiB huge pages of a node."""


class GkeGpuPool(pulumi.ComponentResource):
    """One node pool, and a second one for the on-demand floor. The escape hatch is `pools`, the native resources by name."""

    names: pulumi.Output[list[str]]
    """Names of the node pools."""

    def __init__(self, name: str, args: GkeGpuPoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_pool(f"GkeGpuPool {name}", args, CAPACITIES)
        super().__init__("inferstack:index:GkeGpuPool", name, {**args}, opts)
        self.pools = {part.role: self._pool(part.name(name), args, part) for part in parts(args)}
        self.names = pulumi.Output.all(*[pool.name for pool in self.pools.values()]).apply(list)
        self.register_outputs({"names": self.names})

    def _pool(self, name: str, args: GkeGpuPoolArgs, part: Part) -> gcp.container.NodePool:
        flex = part.capacity == "flex_start"
        placement: gcp.container.NodePoolPlacementPolicyArgsDict | None = {"type": "COMPACT"} if args.get("compact_placement") else None
        return gcp.container.NodePool(
            name,
            project=args["project"],
            cluster=args["cluster"],
            location=args["region"],
            node_locations=args.get("zones") or None,
            # ANY: whichever zone has the GPU, reservations first; total bounds, because per-zone ones multiply.
            autoscaling={"total_min_node_count": part.least, "total_max_node_count": part.most, "location_policy": "ANY"},
            management={"auto_repair": not flex, "auto_upgrade": True},
            upgrade_settings={"strategy": "SURGE", "max_surge": 0 if flex else 1, "max_unavailable": 1 if flex else 0},
            placement_policy=placement,
            ignore_node_count_changes=True,
            node_config=node_config(args, part.capacity),
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["initialNodeCount"]),
        )


def node_config(args: GkeGpuPoolArgs, capacity: str) -> gcp.container.NodePoolNodeConfigArgsDict:
    """The nodes' configuration for one way of buying them; pure."""
    accelerator: gcp.container.NodePoolNodeConfigGuestAcceleratorArgsDict = {
        "type": args["accelerator"],
        "count": args.get("gpus_per_node", 1),
        "gpu_driver_installation_config": {
            "gpu_driver_version": {"default": "DEFAULT", "latest": "LATEST", "disabled": "INSTALLATION_DISABLED"}[
                args.get("driver", "default")
            ]
        },
    }
    if partition := args.get("partition"):
        accelerator["gpu_partition_size"] = partition
    if sharing := args.get("sharing"):
        accelerator["gpu_sharing_config"] = {"gpu_sharing_strategy": "TIME_SHARING", "max_shared_clients_per_gpu": sharing}
    found: gcp.container.NodePoolNodeConfigArgsDict = {
        "machine_type": args["machine_type"],
        "image_type": "COS_CONTAINERD",
        "guest_accelerators": [accelerator],
        "service_account": args["node_service_account"],
        "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        "workload_metadata_config": {"mode": "GKE_METADATA"},
        "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
        "gcfs_config": {"enabled": True},
        "gvnic": {"enabled": True},
        "labels": {ACCELERATOR_LABEL: args["accelerator"]},
        "taints": [{"key": GPU_TAINT, "value": "present", "effect": "NO_SCHEDULE"}],
        "metadata": {"disable-legacy-endpoints": "true"},
    }
    if capacity == "spot":
        found["spot"] = True
    if capacity == "flex_start":
        found["flex_start"] = True
        found["max_run_duration"] = f"{_FLEX_START_SECONDS}s"
    if capacity == "reservation":
        found["reservation_affinity"] = {
            "consume_reservation_type": "SPECIFIC_RESERVATION",
            "key": "compute.googleapis.com/reservation-name",
            "values": [args["reservation"]],
        }
    else:
        found["reservation_affinity"] = {"consume_reservation_type": "NO_RESERVATION" if capacity != "on_demand" else "ANY_RESERVATION"}
    if disk := args.get("disk_gb"):
        found["disk_size_gb"] = disk
    if local := args.get("local_ssd"):
        found["ephemeral_storage_local_ssd_config"] = {"local_ssd_count": local}
    if image := args.get("image_disk"):
        found["secondary_boot_disks"] = [{"disk_image": image, "mode": "CONTAINER_IMAGE_CACHE"}]
    if pages := args.get("huge_pages"):
        found["linux_node_config"] = {"hugepages_config": {"hugepage_size2m": pages}}
    return found
