"""Azure's built-in roles, and what is assigned to whom by them."""

import pulumi
import pulumi_azure_native as azure

ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
BLOB_READER = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
NETWORK_CONTRIBUTOR = "4d97b98b-1d4f-4787-a291-c67834d212e7"
READER = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
GATEWAY_CONFIGURATION = "fbc52c3f-28ad-4303-a892-8a056630b8f1"
"""AppGw for Containers Configuration Manager."""
TOKEN_AUDIENCE = "api://AzureADTokenExchange"  # noqa: S105 - an audience
"""Audience of the service account tokens that a federated identity accepts."""


def allow(
    name: str, principal: pulumi.Input[str], role: str, scope: pulumi.Input[str], opts: pulumi.ResourceOptions
) -> azure.authorization.RoleAssignment:
    """Assign a built-in role at `scope` to an identity, by its object id."""
    return azure.authorization.RoleAssignment(
        name, principal_id=principal, principal_type="ServicePrincipal", role_definition_id=role_id(scope, role), scope=scope, opts=opts
    )


def role_id(resource: pulumi.Input[str], role: str) -> pulumi.Output[str]:
    """Id of a built-in role in the subscription of a resource."""

    def build(identifier: str) -> str:
        subscription = identifier.split("/")[2] if identifier.startswith("/subscriptions/") else identifier
        return f"/subscriptions/{subscription}/providers/Microsoft.Authorization/roleDefinitions/{role}"

    return pulumi.Output.from_input(resource).apply(build)
