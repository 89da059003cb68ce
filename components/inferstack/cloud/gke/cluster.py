"""GkeCluster: a private, VPC-native cluster whose control plane is reached by its DNS endpoint and IAM."""

import json
from typing import NotRequired, TypedDict

import pulumi
import pulumi_gcp as gcp

_NODE_ROLES = (
    "roles/logging.logWriter",
    "roles/monitoring.metricWriter",
    "roles/monitoring.viewer",
    "roles/stackdriver.resourceMetadata.writer",
    "roles/artifactregistry.reader",
)
"""What nodes may do; nothing of it reads a bucket or changes anything."""


class GkeClusterArgs(TypedDict):
    """Arguments of a GkeCluster."""

    project: pulumi.Input[str]
    """Google Cloud project."""
    region: pulumi.Input[str]
    """Region; the cluster is regional."""
    system_machine_type: pulumi.Input[str]
    """Machine type of the nodes for everything but models."""
    system_min_nodes: NotRequired[pulumi.Input[int]]
    """Fewest of those nodes in the region; 1 by default."""
    system_max_nodes: NotRequired[pulumi.Input[int]]
    """Most of those nodes in the region; 3 by default."""
    node_cidr: NotRequired[pulumi.Input[str]]
    """Addresses of the nodes; 10.0.0.0/16 by default."""
    authorized_cidrs: NotRequired[list[str]]
    """Ranges that may reach the control plane by address; by default none: only the DNS endpoint, checked by IAM."""
    release_channel: NotRequired[pulumi.Input[str]]
    """rapid, regular (default) or stable."""
    kubernetes_version: NotRequired[pulumi.Input[str]]
    """Lowest Kubernetes version, where it must be fixed."""
    maintenance_start: NotRequired[pulumi.Input[str]]
    """Start of the daily maintenance window, HH:MM in UTC; 03:00 by default."""
    deletion_protection: NotRequired[bool]
    """Refuse to delete the cluster; on by default."""
    managed_prometheus: NotRequired[bool]
    """Collect metrics, those of the GPUs too, with Google Cloud Managed Service for Prometheus; on by default."""


class GkeCluster(pulumi.ComponentResource):
    """Network, node identity, cluster and system pool. The escape hatch is `cluster`, the native resource."""

    name: pulumi.Output[str]
    kubeconfig: pulumi.Output[str]
    """For kubectl and the kubernetes provider; asks gke-gcloud-auth-plugin for a token, so that it holds no secret."""
    identifier: pulumi.Output[str]
    """Stable name of the cluster for the kubernetes provider."""
    network: pulumi.Output[str]
    subnetwork: pulumi.Output[str]
    node_service_account: pulumi.Output[str]

    def __init__(self, name: str, args: GkeClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inferstack:index:GkeCluster", name, {**args}, opts)
        project, region = args["project"], args["region"]
        child = pulumi.ResourceOptions(parent=self)
        self._network(name, args, child)
        account = gcp.serviceaccount.Account(
            f"{name}-nodes", project=project, account_id=f"{name[:20]}-nodes", display_name=f"Nodes of {name}", opts=child
        )
        roles = [
            gcp.projects.IAMMember(f"{name}-nodes-{role.rpartition('/')[2]}", project=project, role=role, member=account.member, opts=child)
            for role in _NODE_ROLES
        ]
        self.cluster = self._cluster(name, args, account.email, roles)
        self.system_pool = gcp.container.NodePool(
            f"{name}-system",
            project=project,
            cluster=self.cluster.name,
            location=region,
            autoscaling={
                "total_min_node_count": args.get("system_min_nodes", 1),
                "total_max_node_count": args.get("system_max_nodes", 3),
                "location_policy": "BALANCED",
            },
            management={"auto_repair": True, "auto_upgrade": True},
            upgrade_settings={"strategy": "SURGE", "max_surge": 1, "max_unavailable": 0},
            node_config={
                "machine_type": args["system_machine_type"],
                "image_type": "COS_CONTAINERD",
                "service_account": account.email,
                "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
                "workload_metadata_config": {"mode": "GKE_METADATA"},
                "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
                "gcfs_config": {"enabled": True},
                "metadata": {"disable-legacy-endpoints": "true"},
            },
            ignore_node_count_changes=True,
            opts=child,
        )
        self.name = self.cluster.name
        self.identifier = pulumi.Output.concat("gke/", project, "/", region, "/", self.cluster.name)
        endpoint = self.cluster.control_plane_endpoints_config.apply(
            lambda found: found.dns_endpoint_config.endpoint if found and found.dns_endpoint_config else ""
        )
        self.kubeconfig = pulumi.Output.all(self.cluster.name, endpoint).apply(lambda parts: kubeconfig(parts[0], parts[1] or ""))
        self.node_service_account = account.email
        self.register_outputs(
            {
                "name": self.name,
                "kubeconfig": self.kubeconfig,
                "identifier": self.identifier,
                "network": self.network,
                "subnetwork": self.subnetwork,
                "node_service_account": self.node_service_account,
            }
        )

    def _network(self, name: str, args: GkeClusterArgs, child: pulumi.ResourceOptions) -> None:
        """VPC with alias ranges for pods and services, and address translation for nodes without public addresses."""
        project, region = args["project"], args["region"]
        vpc = gcp.compute.Network(f"{name}-network", project=project, auto_create_subnetworks=False, opts=child)
        subnet = gcp.compute.Subnetwork(
            f"{name}-subnet",
            project=project,
            region=region,
            network=vpc.id,
            ip_cidr_range=args.get("node_cidr", "10.0.0.0/16"),
            private_ip_google_access=True,
            secondary_ip_ranges=[
                {"range_name": "pods", "ip_cidr_range": "10.64.0.0/14"},
                {"range_name": "services", "ip_cidr_range": "10.68.0.0/20"},
            ],
            opts=child,
        )
        gcp.compute.Subnetwork(
            f"{name}-proxies",
            project=project,
            region=region,
            network=vpc.id,
            ip_cidr_range="10.69.0.0/23",
            purpose="REGIONAL_MANAGED_PROXY",
            role="ACTIVE",
            opts=child,
        )
        router = gcp.compute.Router(f"{name}-router", project=project, region=region, network=vpc.id, opts=child)
        gcp.compute.RouterNat(
            f"{name}-nat",
            project=project,
            region=region,
            router=router.name,
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
            log_config={"enable": True, "filter": "ERRORS_ONLY"},
            opts=child,
        )
        self.network, self.subnetwork = vpc.id, subnet.id

    def _cluster(
        self, name: str, args: GkeClusterArgs, nodes: pulumi.Output[str], roles: list[gcp.projects.IAMMember]
    ) -> gcp.container.Cluster:
        project, protected = args["project"], args.get("deletion_protection", True)
        prometheus, ranges = args.get("managed_prometheus", True), args.get("authorized_cidrs", [])
        components = ["SYSTEM_COMPONENTS", "DEPLOYMENT", "HPA", "POD", *(["DCGM"] if prometheus else [])]
        return gcp.container.Cluster(
            f"{name}-cluster",
            project=project,
            location=args["region"],
            network=self.network,
            subnetwork=self.subnetwork,
            networking_mode="VPC_NATIVE",
            datapath_provider="ADVANCED_DATAPATH",
            ip_allocation_policy={"cluster_secondary_range_name": "pods", "services_secondary_range_name": "services"},
            private_cluster_config={"enable_private_nodes": True},
            control_plane_endpoints_config={
                "dns_endpoint_config": {"allow_external_traffic": True},
                "ip_endpoints_config": {"enabled": bool(ranges)},
            },
            master_authorized_networks_config={"cidr_blocks": [{"cidr_block": cidr} for cidr in ranges]} if ranges else None,
            workload_identity_config={"workload_pool": pulumi.Output.concat(project, ".svc.id.goog")},
            gateway_api_config={"channel": "CHANNEL_STANDARD"},
            release_channel={"channel": pulumi.Output.from_input(args.get("release_channel", "regular")).apply(str.upper)},
            min_master_version=args.get("kubernetes_version"),
            maintenance_policy={"daily_maintenance_window": {"start_time": args.get("maintenance_start", "03:00")}},
            addons_config={
                "gcs_fuse_csi_driver_config": {"enabled": True},
                "gce_persistent_disk_csi_driver_config": {"enabled": True},
                "dns_cache_config": {"enabled": True},
                "http_load_balancing": {"disabled": False},
            },
            secret_manager_config={"enabled": True},
            monitoring_config={"enable_components": components, "managed_prometheus": {"enabled": prometheus}},
            logging_config={"enable_components": ["SYSTEM_COMPONENTS", "WORKLOADS"]},
            pod_autoscaling={"hpa_profile": "PERFORMANCE"},
            cluster_autoscaling={"autoscaling_profile": "BALANCED"},
            security_posture_config={"mode": "BASIC"},
            enable_shielded_nodes=True,
            enable_intranode_visibility=True,
            remove_default_node_pool=True,
            initial_node_count=1,
            node_config={"service_account": nodes, "shielded_instance_config": {"enable_secure_boot": True}},
            deletion_protection=protected,
            # The pool that the cluster is born with is removed at once: what the API says of it afterwards is no change.
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=roles, protect=protected or None, ignore_changes=["nodeConfig", "initialNodeCount"]
            ),
        )


def kubeconfig(name: str, endpoint: str) -> str:
    """A kubeconfig for the DNS endpoint (no certificate of its own is needed there), with tokens from gke-gcloud-auth-plugin."""
    exec_plugin = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "gke-gcloud-auth-plugin",
        "installHint": "install it with: gcloud components install gke-gcloud-auth-plugin",
        "provideClusterInfo": True,
        "interactiveMode": "Never",
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": f"https://{endpoint}"}}],
            "users": [{"name": name, "user": {"exec": exec_plugin}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
    )
