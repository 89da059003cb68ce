"""AksCluster: CNI overlay with Cilium, workload identity, Entra ID instead of local accounts."""

import base64
from typing import NotRequired, TypedDict

import pulumi
import pulumi_azure_native as azure

from inferstack.cloud.aks.roles import NETWORK_CONTRIBUTOR, allow

_ISTIO: azure.containerservice.ServiceMeshProfileArgsDict = {
    "mode": "Istio",
    "istio": {"components": {"ingress_gateways": [{"enabled": True, "mode": "Internal"}]}},
}
SYSTEM_TAINT = "CriticalAddonsOnly=true:NoSchedule"


class AksClusterArgs(TypedDict):
    """Arguments of an AksCluster."""

    region: pulumi.Input[str]
    """Azure region."""
    system_machine_type: pulumi.Input[str]
    """Machine type of the nodes for everything but models."""
    system_min_nodes: NotRequired[pulumi.Input[int]]
    """Fewest of those nodes; 1 by default."""
    system_max_nodes: NotRequired[pulumi.Input[int]]
    """Most of those nodes; 3 by default."""
    zones: NotRequired[list[str]]
    """Availability zones of those nodes; by default none is asked for."""
    node_cidr: NotRequired[pulumi.Input[str]]
    """Addresses of the nodes; 10.0.0.0/16 by default."""
    more_cidrs: NotRequired[list[pulumi.Input[str]]]
    """More address ranges of the network, for subnets beside the nodes'; none by default."""
    istio_gateway: NotRequired[bool]
    """Have the Istio add-on, whose ingress gateway serves the class `istio`; on by default."""
    authorized_cidrs: NotRequired[list[str]]
    """Ranges that may reach the control plane; empty (default): any, checked by Entra ID."""
    upgrade_channel: NotRequired[str]
    """rapid, stable (default: of the newest minor version but one) or patch."""
    kubernetes_version: NotRequired[pulumi.Input[str]]
    """Kubernetes version, where it must be fixed."""
    maintenance_start: NotRequired[pulumi.Input[str]]
    """Start of the daily maintenance window, HH:MM in UTC; 03:00 by default."""
    deletion_protection: NotRequired[bool]
    """Refuse to delete the cluster; on by default."""
    managed_prometheus: NotRequired[bool]
    """Collect metrics with the managed service; off by default."""
    admin_group_ids: NotRequired[list[str]]
    """Entra ID groups whose members administer the cluster."""
    production: NotRequired[bool]
    """The tier with an uptime agreement."""


class AksCluster(pulumi.ComponentResource):
    """Resource group, network, control plane identity, cluster. The escape hatch is `cluster`, the native resource."""

    name: pulumi.Output[str]
    resource_group: pulumi.Output[str]
    kubeconfig: pulumi.Output[str]
    """For kubectl and the kubernetes provider: the user credentials, a secret; they ask kubelogin for a token."""
    identifier: pulumi.Output[str]
    """Stable name of the cluster for the kubernetes provider."""
    oidc_issuer: pulumi.Output[str]
    """Issuer of the service accounts' tokens, for federated identities."""
    subnet: pulumi.Output[str]
    network: pulumi.Output[str]
    """Name of the network."""
    node_resource_group: pulumi.Output[str]
    """Id of the resource group that Azure keeps the nodes in."""
    kubelet_identity: pulumi.Output[str]
    """Object id of the identity that pulls images."""
    control_plane_identity: pulumi.Output[str]
    """Object id of the identity that makes nodes and addresses."""

    def __init__(self, name: str, args: AksClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inferstack:index:AksCluster", name, {**args}, opts)
        protected = args.get("deletion_protection", True)
        child = pulumi.ResourceOptions(parent=self)
        self.group = azure.resources.ResourceGroup(
            f"{name}-group", location=args["region"], opts=pulumi.ResourceOptions(parent=self, protect=protected or None)
        )
        network = azure.network.VirtualNetwork(
            f"{name}-network",
            resource_group_name=self.group.name,
            location=args["region"],
            address_space={"address_prefixes": [args.get("node_cidr", "10.0.0.0/16"), *args.get("more_cidrs", [])]},
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["subnets"]),
        )
        subnet = azure.network.Subnet(
            f"{name}-nodes",
            resource_group_name=self.group.name,
            virtual_network_name=network.name,
            address_prefix=args.get("node_cidr", "10.0.0.0/16"),
            private_endpoint_network_policies="Disabled",
            opts=child,
        )
        identity = azure.managedidentity.UserAssignedIdentity(
            f"{name}-control-plane", resource_group_name=self.group.name, location=args["region"], opts=child
        )
        allowed = allow(f"{name}-network-contributor", identity.principal_id, NETWORK_CONTRIBUTOR, subnet.id, child)
        self.cluster = self._cluster(name, args, subnet.id, identity, allowed)
        self._maintenance(name, args)
        self.control_plane_identity = identity.principal_id
        self.name, self.resource_group, self.subnet = self.cluster.name, self.group.name, subnet.id
        self.network, self.node_resource_group = network.name, node_group_id(self.cluster)
        self.identifier = pulumi.Output.concat("aks/", self.group.name, "/", self.cluster.name)
        self.oidc_issuer = self.cluster.oidc_issuer_profile.apply(lambda found: found.issuer_url if found else "")
        self.kubelet_identity = self.cluster.identity_profile.apply(lambda found: found["kubeletidentity"].object_id or "" if found else "")
        credentials = azure.containerservice.list_managed_cluster_user_credentials_output(
            resource_group_name=self.group.name, resource_name=self.cluster.name, opts=pulumi.InvokeOutputOptions(parent=self)
        )
        self.kubeconfig = pulumi.Output.secret(
            credentials.kubeconfigs.apply(lambda found: base64.b64decode(found[0].value).decode() if found else "")
        )
        self.register_outputs(
            {
                "name": self.name,
                "resource_group": self.resource_group,
                "kubeconfig": self.kubeconfig,
                "identifier": self.identifier,
                "oidc_issuer": self.oidc_issuer,
                "subnet": self.subnet,
                "network": self.network,
                "node_resource_group": self.node_resource_group,
                "kubelet_identity": self.kubelet_identity,
                "control_plane_identity": self.control_plane_identity,
            }
        )

    def _cluster(
        self,
        name: str,
        args: AksClusterArgs,
        subnet: pulumi.Output[str],
        identity: azure.managedidentity.UserAssignedIdentity,
        allowed: pulumi.Resource,
    ) -> azure.containerservice.ManagedCluster:
        protected, ranges = args.get("deletion_protection", True), args.get("authorized_cidrs", [])
        system: azure.containerservice.ManagedClusterAgentPoolProfileArgsDict = {
            "name": "system",
            "mode": "System",
            "os_type": "Linux",
            "os_sku": "AzureLinux",
            "vm_size": args["system_machine_type"],
            "enable_auto_scaling": True,
            "count": args.get("system_min_nodes", 1),
            "min_count": args.get("system_min_nodes", 1),
            "max_count": args.get("system_max_nodes", 3),
            "availability_zones": args.get("zones", []),
            "vnet_subnet_id": subnet,
            "upgrade_settings": {"max_surge": "33%"},
        }
        return azure.containerservice.ManagedCluster(
            f"{name}-cluster",
            resource_group_name=self.group.name,
            location=args["region"],
            dns_prefix=name,
            kubernetes_version=args.get("kubernetes_version"),
            sku={"name": "Base", "tier": "Standard" if args.get("production") else "Free"},
            identity={"type": azure.containerservice.ResourceIdentityType.USER_ASSIGNED, "user_assigned_identities": [identity.id]},
            agent_pool_profiles=[system],
            network_profile={
                "network_plugin": "azure",
                "network_plugin_mode": "overlay",
                "network_dataplane": "cilium",
                "network_policy": "cilium",
                "load_balancer_sku": "standard",
                "outbound_type": "loadBalancer",
                "pod_cidr": "10.64.0.0/14",
                "service_cidr": "10.68.0.0/20",
                "dns_service_ip": "10.68.0.10",
            },
            api_server_access_profile={"authorized_ip_ranges": ranges, "disable_run_command": True},
            aad_profile={"managed": True, "enable_azure_rbac": True, "admin_group_object_ids": args.get("admin_group_ids", [])},
            disable_local_accounts=True,
            enable_rbac=True,
            oidc_issuer_profile={"enabled": True},
            security_profile={"workload_identity": {"enabled": True}, "image_cleaner": {"enabled": True, "interval_hours": 168}},
            auto_upgrade_profile={"upgrade_channel": args.get("upgrade_channel", "stable"), "node_os_upgrade_channel": "NodeImage"},
            auto_scaler_profile={"expander": "least-waste", "max_graceful_termination_sec": "600", "balance_similar_node_groups": "true"},
            workload_auto_scaler_profile={"keda": {"enabled": True}},
            storage_profile={
                "blob_csi_driver": {"enabled": True},
                "disk_csi_driver": {"enabled": True},
                "file_csi_driver": {"enabled": False},
            },
            service_mesh_profile=_ISTIO if args.get("istio_gateway", True) else None,
            addon_profiles={
                "azurepolicy": {"enabled": True},
                "azureKeyvaultSecretsProvider": {"enabled": True, "config": {"enableSecretRotation": "true"}},
            },
            azure_monitor_profile={"metrics": {"enabled": args.get("managed_prometheus", False)}},
            # Only the system pool stands inline, as the API demands; what GPU pools add to the list is theirs.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[allowed], protect=protected or None, ignore_changes=["agentPoolProfiles"]),
        )

    def _maintenance(self, name: str, args: AksClusterArgs) -> None:
        for kind in ("aksManagedAutoUpgradeSchedule", "aksManagedNodeOSUpgradeSchedule"):
            azure.containerservice.MaintenanceConfiguration(
                f"{name}-{kind.removeprefix('aksManaged')}",
                resource_group_name=self.group.name,
                resource_name_=self.cluster.name,
                config_name=kind,
                maintenance_window={
                    "duration_hours": 4,
                    "schedule": {"weekly": {"day_of_week": "Sunday", "interval_weeks": 1}},
                    "start_time": args.get("maintenance_start", "03:00"),
                    "utc_offset": "+00:00",
                },
                opts=pulumi.ResourceOptions(parent=self),
            )


def node_group_id(cluster: azure.containerservice.ManagedCluster) -> pulumi.Output[str]:
    """Id of the resource group of a cluster's nodes."""

    def build(found: list[str]) -> str:
        subscription = found[0].split("/")[2] if found[0].startswith("/subscriptions/") else found[0]
        return f"/subscriptions/{subscription}/resourceGroups/{found[1]}"

    return pulumi.Output.all(cluster.id, cluster.node_resource_group).apply(build)
