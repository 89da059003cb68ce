"""GkeCache: Memorystore for Valkey, reached by private service connection."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_gcp as gcp

from inferstack.planning.caches import cache_size


class GkeCacheArgs(TypedDict):
    """Arguments of a GkeCache."""

    project: pulumi.Input[str]
    """Google Cloud project."""
    region: pulumi.Input[str]
    """Region of the instance."""
    network: pulumi.Input[str]
    """Id of the network that the slots are in."""
    subnetwork: pulumi.Input[str]
    """Id of the subnetwork that gives the address."""
    size: str
    """Memory that must be usable, for instance `8Gi`."""
    high_availability: NotRequired[bool]
    """A replica in another zone that takes over."""
    clients: NotRequired[list[pulumi.Input[str]]]
    """Service accounts that may connect, by their IAM token alone; without any, whoever is in the network may."""
    deletion_protection: NotRequired[bool]
    """Refuse to delete the instance; off by default: a cache is disposable."""


class GkeCache(pulumi.ComponentResource):
    """A connection policy and one instance. The escape hatch is `instance`, the native resource."""

    url: pulumi.Output[str]
    """Address that the slots use; a secret."""
    certificates: pulumi.Output[str]
    """The instance's own authority, which clients must trust: PEM."""

    def __init__(self, name: str, args: GkeCacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        node_type = cache_size("gke", args["size"])
        super().__init__("inferstack:index:GkeCache", name, {**args}, opts)
        project, region = args["project"], args["region"]
        policy = gcp.networkconnectivity.ServiceConnectionPolicy(
            f"{name}-connection",
            project=project,
            location=region,
            network=args["network"],
            service_class="gcp-memorystore",
            psc_config={"subnetworks": [args["subnetwork"]]},
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.instance = gcp.memorystore.Instance(
            f"{name}-instance",
            project=project,
            location=region,
            instance_id=name,
            mode="CLUSTER_DISABLED",
            shard_count=1,
            node_type=node_type,
            replica_count=1 if args.get("high_availability") else 0,
            engine_version="VALKEY_8_0",
            engine_configs={"maxmemory-policy": "allkeys-lru"},
            authorization_mode="IAM_AUTH" if args.get("clients") else "AUTH_DISABLED",
            transit_encryption_mode="SERVER_AUTHENTICATION",
            desired_auto_created_endpoints=[{"network": args["network"], "project_id": project}],
            deletion_protection_enabled=args.get("deletion_protection", False),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
        )
        this = pulumi.Output.format('resource.name == "projects/{0}/locations/{1}/instances/{2}"', project, region, name)
        for index, client in enumerate(args.get("clients", [])):
            gcp.projects.IAMMember(
                f"{name}-client-{index}",
                project=project,
                role="roles/memorystore.dbConnectionUser",
                member=pulumi.Output.concat("serviceAccount:", client),
                condition={"title": "this cache only", "expression": this},
                opts=pulumi.ResourceOptions(parent=self),
            )
        self.url = pulumi.Output.secret(self.instance.endpoints.apply(address))
        self.certificates = self.instance.managed_server_cas.apply(certificates)
        self.register_outputs({"url": self.url, "certificates": self.certificates})


def address(endpoints: object) -> str:
    """The address of the first connection of an instance's endpoints."""
    for endpoint in endpoints or []:  # type: ignore[attr-defined]
        for connection in endpoint.connections or []:
            if found := connection.psc_auto_connection:
                return f"rediss://{found.ip_address}:{found.port or 6379}/0"
    raise ValueError("the Memorystore instance has no endpoint yet: run the update again")


def certificates(authorities: object) -> str:
    """The certificates of an instance's own authority, one after another."""
    chains = [chain for authority in authorities or [] for chain in authority.ca_certs or []]  # type: ignore[attr-defined]
    if found := [certificate.strip() for chain in chains for certificate in chain.certificates or []]:
        return "\n".join(found) + "\n"
    raise ValueError("the Memorystore instance has no certificate authority yet: run the update again")
