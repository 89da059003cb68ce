"""AksCache: Azure Managed Redis."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_azure_native as azure

from inferstack.planning.caches import cache_size

_PORT = 10000


class AksCacheArgs(TypedDict):
    """Arguments of an AksCache."""

    resource_group: pulumi.Input[str]
    """Resource group of the cache."""
    region: pulumi.Input[str]
    """Azure region."""
    size: str
    """Memory that must be usable, for instance `8Gi`."""
    high_availability: NotRequired[bool]
    """A replica that takes over."""


class AksCache(pulumi.ComponentResource):
    """One cache with one database. The escape hatch is `cache`, the native resource."""

    url: pulumi.Output[str]
    """Address that the slots use, with the access key; a secret."""

    def __init__(self, name: str, args: AksCacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        size = cache_size("aks", args["size"])
        super().__init__("inferstack:index:AksCache", name, {**args}, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.cache = azure.redisenterprise.RedisEnterprise(
            f"{name}-redis",
            resource_group_name=args["resource_group"],
            location=args["region"],
            sku={"name": size},
            high_availability="Enabled" if args.get("high_availability") else "Disabled",
            minimum_tls_version="1.2",
            public_network_access="Enabled",
            opts=child,
        )
        database = azure.redisenterprise.Database(
            f"{name}-database",
            resource_group_name=args["resource_group"],
            cluster_name=self.cache.name,
            database_name="default",
            port=_PORT,
            client_protocol="Encrypted",
            clustering_policy="EnterpriseCluster",
            eviction_policy="AllKeysLRU",
            access_keys_authentication="Enabled",
            opts=child,
        )
        keys = azure.redisenterprise.list_database_keys_output(
            resource_group_name=args["resource_group"],
            cluster_name=self.cache.name,
            database_name=database.name,
            opts=pulumi.InvokeOutputOptions(parent=self, depends_on=[database]),
        )
        parts = pulumi.Output.all(keys.primary_key, self.cache.host_name)
        self.url = pulumi.Output.secret(parts.apply(lambda found: f"rediss://:{found[0]}@{found[1]}:{_PORT}/0"))
        self.register_outputs({"url": self.url})
