"""Clusters of GKE and AKS: private, with workload identity, kept up to date, guarded in production."""

import ipaddress
from collections.abc import Iterator

from inferstack_policies.model import Context, Resource, Rule
from inferstack_policies.rules.gpu import POOLS
from inferstack_policies.shapes import at, mapping, sequence

_WIDEST = 8
"""Bits of the widest range that one owner can have; wider ones, also in parts, are the internet."""
CLUSTERS = frozenset({"Cluster", "ManagedCluster"})


def is_gke(r: Resource) -> bool:
    return r.type == "gcp:container/cluster:Cluster"


def is_aks(r: Resource) -> bool:
    return r.kind == "ManagedCluster" and r.type.startswith("azure-native:")


def private(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if is_gke(r) and at(r.props, "privateClusterConfig", "enablePrivateNodes") is not True:
        yield "privateClusterConfig.enablePrivateNodes", "nodes have public addresses."
    if is_aks(r):
        profile = mapping(r.props.get("apiServerAccessProfile"))
        if profile.get("enablePrivateCluster") is not True and not sequence(profile.get("authorizedIPRanges")):
            yield "apiServerAccessProfile", "the control plane answers the whole internet."


def is_open(text: str) -> bool:
    """Whether a range of addresses is the internet, whole or in large parts."""
    try:
        return ipaddress.ip_network(text, strict=False).prefixlen < _WIDEST
    except ValueError:
        return False


def control_plane(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    blocks = sequence(at(r.props, "masterAuthorizedNetworksConfig", "cidrBlocks"))
    ranges = [str(mapping(block).get("cidrBlock")) for block in blocks]
    ranges += [str(item) for item in sequence(at(r.props, "apiServerAccessProfile", "authorizedIPRanges"))]
    if any(is_open(item) for item in ranges):
        yield "masterAuthorizedNetworksConfig" if is_gke(r) else "apiServerAccessProfile", "everybody may reach the control plane."


def workload_identity(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if is_gke(r) and not at(r.props, "workloadIdentityConfig", "workloadPool"):
        yield "workloadIdentityConfig.workloadPool", "pods can only use the node's identity, or keys in files."
    if is_aks(r):
        if at(r.props, "oidcIssuerProfile", "enabled") is not True:
            yield "oidcIssuerProfile.enabled", "no identity can be federated to a pod."
        if at(r.props, "securityProfile", "workloadIdentity", "enabled") is not True:
            yield "securityProfile.workloadIdentity.enabled", "pods can only use the node's identity, or keys in files."


def node_metadata(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.kind == "NodePool" and at(r.props, "nodeConfig", "workloadMetadataConfig", "mode") != "GKE_METADATA":
        yield "nodeConfig.workloadMetadataConfig.mode", "a pod can ask the metadata server for the node's token."


def node_identity(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.kind == "NodePool" and at(r.props, "nodeConfig", "serviceAccount") in (None, "", "default"):
        yield "nodeConfig.serviceAccount", "nodes run as the project's default account, which is an editor of everything."


def shielded(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.kind == "NodePool" and at(r.props, "nodeConfig", "shieldedInstanceConfig", "enableSecureBoot") is not True:
        yield "nodeConfig.shieldedInstanceConfig", "a changed boot chain of a node is not noticed."


def upkeep(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.kind == "NodePool":
        management = mapping(r.props.get("management"))
        flex = at(r.props, "nodeConfig", "flexStart") is True
        if management.get("autoRepair") is False and not flex:
            yield "management.autoRepair", "a broken node stays."
        if management.get("autoUpgrade") is False:
            yield "management.autoUpgrade", "nodes stay behind the control plane and its fixes."
    if is_aks(r) and at(r.props, "autoUpgradeProfile", "nodeOSUpgradeChannel") in (None, "None"):
        yield "autoUpgradeProfile.nodeOSUpgradeChannel", "nodes get no fixes of their system."


def local_accounts(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if is_aks(r):
        if r.props.get("disableLocalAccounts") is not True:
            yield "disableLocalAccounts", "a certificate that cannot be revoked gives the rights of an administrator."
        if r.props.get("enableRBAC") is False:
            yield "enableRBAC", "everybody with access may do everything."
    if is_gke(r):
        if r.props.get("enableLegacyAbac") is True:
            yield "enableLegacyAbac", "everybody with access may do everything."
        if at(r.props, "masterAuth", "clientCertificateConfig", "issueClientCertificate") is True:
            yield "masterAuth.clientCertificateConfig", "a certificate that cannot be revoked gives access."


def network_policy(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if is_gke(r) and r.props.get("datapathProvider") != "ADVANCED_DATAPATH" and at(r.props, "networkPolicy", "enabled") is not True:
        yield "datapathProvider", "NetworkPolicies are accepted and not enforced."
    if is_aks(r) and at(r.props, "networkProfile", "networkPolicy") in (None, "none"):
        yield "networkProfile.networkPolicy", "NetworkPolicies are accepted and not enforced."


def protected(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    if context.production and is_gke(r) and r.props.get("deletionProtection") is False:
        yield "deletionProtection", "one command deletes the production cluster."


RULES = (
    Rule(
        "cluster-private",
        "error",
        "What has no public address is not scanned by everybody.",
        "Use private nodes (GKE), a private cluster or authorized ranges (AKS: cloud.network.authorized_cidrs).",
        ("GCP-0059", "CKV_GCP_25", "AZU-0041", "CKV_AZURE_6", "CKV_AZURE_115"),
        CLUSTERS,
        private,
    ),
    Rule(
        "cluster-control-plane",
        "error",
        "The control plane is the key to everything.",
        "Name ranges, or use the DNS endpoint with IAM.",
        ("GCP-0053", "CKV_GCP_20", "AZU-0041"),
        CLUSTERS,
        control_plane,
    ),
    Rule(
        "cluster-workload-identity",
        "error",
        "Keys in files are copied; identities are not.",
        "Turn workload identity on.",
        ("CKV_GCP_69", "GCP-0057"),
        CLUSTERS,
        workload_identity,
    ),
    Rule(
        "node-metadata",
        "error",
        "The node's token opens registry, buckets and logs.",
        "Set workloadMetadataConfig.mode: GKE_METADATA.",
        ("GCP-0057", "CKV_GCP_69"),
        POOLS,
        node_metadata,
    ),
    Rule(
        "node-identity",
        "error",
        "The default account of a project may change everything in it.",
        "Give nodes a service account with least privilege.",
        ("GCP-0050",),
        POOLS,
        node_identity,
    ),
    Rule(
        "node-shielded",
        "warning",
        "A root kit on a node sees every model and key.",
        "Set shieldedInstanceConfig.enableSecureBoot: true.",
        ("GCP-0055", "CKV_GCP_68"),
        POOLS,
        shielded,
    ),
    Rule(
        "node-upkeep",
        "error",
        "Unpatched nodes are the common way in.",
        "Leave repair and upgrade on; set a node image channel on AKS.",
        ("GCP-0063", "GCP-0058", "CKV_GCP_9", "CKV_GCP_10", "CKV_AZURE_171"),
        POOLS | CLUSTERS,
        upkeep,
    ),
    Rule(
        "cluster-local-accounts",
        "error",
        "Rights must end when a person leaves.",
        "Disable local accounts and certificates; use Entra or IAM.",
        ("CKV_AZURE_141", "AZU-0042", "GCP-0062", "CKV_GCP_7", "CKV_GCP_13"),
        CLUSTERS,
        local_accounts,
    ),
    Rule(
        "cluster-network-policy",
        "error",
        "A policy that nobody enforces is a comment.",
        "Use Dataplane V2 (GKE), Cilium (AKS).",
        ("GCP-0056", "CKV_GCP_12", "AZU-0043", "CKV_AZURE_7"),
        CLUSTERS,
        network_policy,
    ),
    Rule(
        "cluster-protected",
        "error",
        "Production is not deleted by mistake.",
        "Set deletionProtection: true.",
        (),
        CLUSTERS,
        protected,
    ),
)
