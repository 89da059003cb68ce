"""GpuDevicePlugin: makes the GPUs of a cluster's nodes known to its scheduler."""

from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.device_plugin import device_plugin_objects
from inferstack.cluster.resources import check_roles, customize, make

ROLES = frozenset({"namespace", "config", "default_deny", "network_policy", "daemon_set"})


class GpuDevicePluginArgs(TypedDict):
    """Arguments of a GpuDevicePlugin."""

    partitioned: NotRequired[bool]
    """The GPUs are MIG partitions."""
    sharing: NotRequired[int]
    """Clients that share one GPU by time slices; 0: none."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role."""


class GpuDevicePlugin(pulumi.ComponentResource):
    """NVIDIA's device plugin as a DaemonSet on the GPU nodes, in a namespace of its own."""

    def __init__(self, name: str, args: GpuDevicePluginArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_roles(f"GpuDevicePlugin {name}", args.get("customize"), ROLES)
        super().__init__("inferstack:index:GpuDevicePlugin", name, {**args}, opts)
        changes = args.get("customize", {})
        self.resources: dict[str, pulumi.CustomResource] = {}
        for role, manifest in device_plugin_objects(args.get("partitioned", False), args.get("sharing", 0)).items():
            above = list(self.resources.values())
            options = pulumi.ResourceOptions(parent=self, depends_on=above)
            self.resources[role] = make(f"{name}-{role.replace('_', '-')}", customize(manifest, changes.get(role)), options)
        self.register_outputs({})
