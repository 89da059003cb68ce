"""AksStorage: a blob container for weights, a registry for images, and the identity by which pods read them."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_azure_native as azure

from inferstack.cloud.aks.roles import ACR_PULL, BLOB_READER, TOKEN_AUDIENCE, allow


class AksStorageArgs(TypedDict):
    """Arguments of an AksStorage."""

    resource_group: pulumi.Input[str]
    """Resource group of account and registry."""
    region: pulumi.Input[str]
    """Azure region."""
    oidc_issuer: pulumi.Input[str]
    """Issuer of the cluster's service account tokens."""
    kubelet_identity: pulumi.Input[str]
    """Object id of the identity that pulls images."""
    namespace: str
    """Kubernetes namespace of the pods that may read the weights."""
    service_accounts: list[str]
    """Kubernetes service accounts of those pods."""
    container: NotRequired[str]
    """Name of the container; `weights` by default."""
    zone_redundant: NotRequired[bool]
    """Copies in three zones."""
    deletion_protection: NotRequired[bool]
    """Refuse to delete account and registry; on by default."""


class AksStorage(pulumi.ComponentResource):
    """Storage account, registry and a managed identity that may read the account's blobs and nothing else."""

    account: pulumi.Output[str]
    """Name of the storage account."""
    container: pulumi.Output[str]
    """Name of the container."""
    registry: pulumi.Output[str]
    """Address of the registry."""
    client_id: pulumi.Output[str]
    """Client id of the identity that pods act as."""
    principal_id: pulumi.Output[str]
    """Object id of that identity."""

    def __init__(self, name: str, args: AksStorageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inferstack:index:AksStorage", name, {**args}, opts)
        group, region, protected = args["resource_group"], args["region"], args.get("deletion_protection", True)
        child = pulumi.ResourceOptions(parent=self)
        kept = pulumi.ResourceOptions(parent=self, protect=protected or None)
        short = "".join(character for character in name.lower() if character.isalnum())[:12]
        self.account_resource = azure.storage.StorageAccount(
            f"{short}weights",
            resource_group_name=group,
            location=region,
            kind="StorageV2",
            sku={"name": "Standard_ZRS" if args.get("zone_redundant") else "Standard_LRS"},
            is_hns_enabled=True,
            allow_blob_public_access=False,
            allow_shared_key_access=False,
            minimum_tls_version="TLS1_2",
            enable_https_traffic_only=True,
            opts=kept,
        )
        self.container_resource = azure.storage.BlobContainer(
            f"{name}-weights",
            resource_group_name=group,
            account_name=self.account_resource.name,
            container_name=args.get("container", "weights"),
            public_access=azure.storage.PublicAccess.NONE,
            opts=child,
        )
        self.registry_resource = azure.containerregistry.Registry(
            f"{short}images",
            resource_group_name=group,
            location=region,
            sku={"name": "Standard"},
            admin_user_enabled=False,
            anonymous_pull_enabled=False,
            opts=kept,
        )
        self.identity = azure.managedidentity.UserAssignedIdentity(
            f"{name}-workload", resource_group_name=group, location=region, opts=child
        )
        allow(f"{name}-read-weights", self.identity.principal_id, BLOB_READER, self.account_resource.id, child)
        allow(f"{name}-pull-images", args["kubelet_identity"], ACR_PULL, self.registry_resource.id, child)
        previous: list[pulumi.Resource] = []  # Azure refuses two credentials of one identity at the same time
        for account in args["service_accounts"]:
            previous = [
                azure.managedidentity.FederatedIdentityCredential(
                    f"{name}-as-{account}",
                    resource_group_name=group,
                    resource_name_=self.identity.name,
                    federated_identity_credential_resource_name=account,
                    issuer=args["oidc_issuer"],
                    subject=f"system:serviceaccount:{args['namespace']}:{account}",
                    audiences=[TOKEN_AUDIENCE],
                    opts=pulumi.ResourceOptions(parent=self, depends_on=previous),
                )
            ]
        self.account, self.container = self.account_resource.name, self.container_resource.name
        self.registry = self.registry_resource.login_server
        self.client_id, self.principal_id = self.identity.client_id, self.identity.principal_id
        self.register_outputs(
            {
                "account": self.account,
                "container": self.container,
                "registry": self.registry,
                "client_id": self.client_id,
                "principal_id": self.principal_id,
            }
        )
