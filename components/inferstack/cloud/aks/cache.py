"""AksCache: Azure Managed Redis."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_azure_native as azure

from inferstack.planning.caches import cache_size

_PORT = 10000
_PRIVATE_ZONE, _PRIVATE_GROUP = "privatelink.redis.azure.net", "redisEnterprise"
"""Private DNS zone and subresource of Azure Managed Redis (learn.microsoft.com/azure/private-link/private-endpoint-dns)."""


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
    subnet: NotRequired[pulumi.Input[str]]
    """Id of the subnet that gives the cache its private address; without one it is reached by its public name."""
    clients: NotRequired[list[pulumi.Input[str]]]
    """Object ids of the identities that may connect, by their Entra token alone; without any, whoever has the access key may."""


class AksCache(pulumi.ComponentResource):
    """One cache with one database, inside the network where a subnet is given. The escape hatch is `cache`, the native resource."""

    url: pulumi.Output[str]
    """Address that the slots use, with the access key where there is one; a secret."""

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
            public_network_access="Disabled" if "subnet" in args else "Enabled",
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
            access_keys_authentication="Disabled" if args.get("clients") else "Enabled",
            opts=child,
        )
        clients = args.get("clients", [])
        for index, client in enumerate(clients):
            azure.redisenterprise.AccessPolicyAssignment(
                f"{name}-client-{index}",
                resource_group_name=args["resource_group"],
                cluster_name=self.cache.name,
                database_name=database.name,
                access_policy_assignment_name=f"client{index}",
                access_policy_name="default",
                user={"object_id": client},
                opts=child,
            )
        self.url = self._address(args["resource_group"], None if clients else database)
        if "subnet" in args:
            named = self._private_address(name, args, args["subnet"], child)
            self.url = pulumi.Output.all(self.url, named.id).apply(lambda found: found[0])  # before, its name means the public address
        self.register_outputs({"url": self.url})

    def _private_address(
        self, name: str, args: AksCacheArgs, subnet: pulumi.Input[str], child: pulumi.ResourceOptions
    ) -> azure.network.PrivateDnsZoneGroup:
        """An address of the subnet, which the cache's own name means inside the network."""
        group = args["resource_group"]
        endpoint = azure.network.PrivateEndpoint(
            f"{name}-endpoint",
            resource_group_name=group,
            location=args["region"],
            subnet={"id": subnet},
            private_link_service_connections=[
                {"name": "cache", "private_link_service_id": self.cache.id, "group_ids": [_PRIVATE_GROUP]},
            ],
            opts=child,
        )
        zone = azure.privatedns.PrivateZone(
            f"{name}-zone", resource_group_name=group, location="Global", private_zone_name=_PRIVATE_ZONE, opts=child
        )
        link = azure.privatedns.VirtualNetworkLink(
            f"{name}-zone-link",
            resource_group_name=group,
            location="Global",
            private_zone_name=zone.name,
            registration_enabled=False,
            virtual_network={"id": pulumi.Output.from_input(subnet).apply(lambda found: found.partition("/subnets/")[0])},
            opts=child,
        )
        return azure.network.PrivateDnsZoneGroup(
            f"{name}-zone-group",
            resource_group_name=group,
            private_endpoint_name=endpoint.name,
            private_dns_zone_configs=[{"name": "redis", "private_dns_zone_id": zone.id}],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[link]),
        )

    def _address(self, resource_group: pulumi.Input[str], keys_of: azure.redisenterprise.Database | None) -> pulumi.Output[str]:
        """The cache's address, with the access key of a database that has one."""
        host: pulumi.Output[str] = pulumi.Output.concat(self.cache.host_name, f":{_PORT}/0")
        if keys_of is None:
            return pulumi.Output.secret(pulumi.Output.concat("rediss://", host))
        keys = azure.redisenterprise.list_database_keys_output(
            resource_group_name=resource_group,
            cluster_name=self.cache.name,
            database_name=keys_of.name,
            opts=pulumi.InvokeOutputOptions(parent=self, depends_on=[keys_of]),
        )
        return pulumi.Output.secret(pulumi.Output.concat("rediss://:", keys.primary_key, "@", host))
