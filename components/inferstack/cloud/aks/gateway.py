"""AksGateway: Application Gateway for Containers, and the identity by which its controller in the cluster configures it."""

from typing import TypedDict

import pulumi
import pulumi_azure_native as azure

from inferstack.cloud.aks.roles import GATEWAY_CONFIGURATION, NETWORK_CONTRIBUTOR, READER, TOKEN_AUDIENCE, allow

CONTROLLER_NAMESPACE = "azure-alb-system"
CONTROLLER_ACCOUNT = "alb-controller-sa"
"""Where the controller's chart puts it, and the service account that it runs as."""
FRONTEND = "inferstack"


class AksGatewayArgs(TypedDict):
    """Arguments of an AksGateway."""

    resource_group: pulumi.Input[str]
    """Resource group of the gateway."""
    resource_group_id: pulumi.Input[str]
    """Its id: the scope of the controller's role."""
    region: pulumi.Input[str]
    """Azure region."""
    network: pulumi.Input[str]
    """Name of the network that the nodes are in."""
    subnet_cidr: pulumi.Input[str]
    """Addresses of the subnet that is delegated to the gateway: at least a /24 of the network."""
    oidc_issuer: pulumi.Input[str]
    """Issuer of the cluster's service account tokens."""
    node_resource_group: pulumi.Input[str]
    """Id of the resource group of the nodes, which the controller reads."""


class AksGateway(pulumi.ComponentResource):
    """The gateway with one public frontend, its delegated subnet, and the controller's federated identity.

    The escape hatch is `controller`, the native resource.
    """

    gateway_id: pulumi.Output[str]
    """Id that Gateway objects name in the annotation `alb.networking.azure.io/alb-id`."""
    frontend: pulumi.Output[str]
    """Name of the frontend that they have as their address."""
    host: pulumi.Output[str]
    """Public host name of the frontend."""
    client_id: pulumi.Output[str]
    """Client id of the controller's identity."""

    def __init__(self, name: str, args: AksGatewayArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("inferstack:index:AksGateway", name, {**args}, opts)
        group, region, child = args["resource_group"], args["region"], pulumi.ResourceOptions(parent=self)
        subnet = azure.network.Subnet(
            f"{name}-subnet",
            resource_group_name=group,
            virtual_network_name=args["network"],
            address_prefix=args["subnet_cidr"],
            delegations=[{"name": "gateway", "service_name": "Microsoft.ServiceNetworking/trafficControllers"}],
            opts=child,
        )
        self.controller = azure.servicenetworking.TrafficControllerInterface(
            f"{name}-controller", resource_group_name=group, location=region, opts=child
        )
        self.entry = frontend = azure.servicenetworking.FrontendsInterface(
            f"{name}-frontend",
            resource_group_name=group,
            location=region,
            traffic_controller_name=self.controller.name,
            frontend_name=FRONTEND,
            opts=child,
        )
        self.association = association = azure.servicenetworking.AssociationsInterface(
            f"{name}-association",
            resource_group_name=group,
            location=region,
            traffic_controller_name=self.controller.name,
            association_name="nodes",
            association_type=azure.servicenetworking.AssociationType.SUBNETS,
            subnet={"id": subnet.id},
            opts=child,
        )
        identity = azure.managedidentity.UserAssignedIdentity(f"{name}-identity", resource_group_name=group, location=region, opts=child)
        allow(f"{name}-configure", identity.principal_id, GATEWAY_CONFIGURATION, args["resource_group_id"], child)
        allow(f"{name}-join", identity.principal_id, NETWORK_CONTRIBUTOR, subnet.id, child)
        allow(f"{name}-read-nodes", identity.principal_id, READER, args["node_resource_group"], child)
        azure.managedidentity.FederatedIdentityCredential(
            f"{name}-as-controller",
            resource_group_name=group,
            resource_name_=identity.name,
            federated_identity_credential_resource_name="alb-controller",
            issuer=args["oidc_issuer"],
            subject=f"system:serviceaccount:{CONTROLLER_NAMESPACE}:{CONTROLLER_ACCOUNT}",
            audiences=[TOKEN_AUDIENCE],
            opts=child,
        )
        # Whoever names the gateway waits until it is joined to the network: before, no request reaches a node.
        self.gateway_id = pulumi.Output.all(self.controller.id, association.id).apply(lambda found: found[0])
        self.frontend, self.host, self.client_id = frontend.name, frontend.fqdn, identity.client_id
        self.register_outputs({"gateway_id": self.gateway_id, "frontend": self.frontend, "host": self.host, "client_id": self.client_id})
