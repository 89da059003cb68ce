"""ServingNamespace: the namespace of an environment's slots, isolated and bounded."""

from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster import objects
from inferstack.cluster.resources import check_roles, customize, make
from inferstack.cluster.secrets import external_secrets
from inferstack.environment import parse_environment


class ServingNamespaceArgs(TypedDict):
    """Arguments of a ServingNamespace."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role."""


class ServingNamespace(pulumi.ComponentResource):
    """The namespace with the restricted pod security standard, a default-deny policy, a quota, the Secrets of a store, and in production a
    priority class."""

    namespace: pulumi.Output[str]
    """Name of the namespace."""

    def __init__(self, name: str, args: ServingNamespaceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"ServingNamespace {name}")
        changes = args.get("customize", {})
        wanted = {
            "namespace": objects.namespace(environment),
            "default_deny": objects.default_deny(environment),
            "gateway_policy": objects.gateway_policy(environment),
            "quota": objects.quota(environment),
            **external_secrets(environment),
        }
        if environment.production:
            wanted["priority_class"] = objects.priority_class(environment)
        check_roles(f"ServingNamespace {name}", args.get("customize"), frozenset(wanted))
        super().__init__("inferstack:index:ServingNamespace", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        self.resources: dict[str, pulumi.CustomResource] = {}
        for role, manifest in wanted.items():
            above = [self.resources["namespace"]] if role != "namespace" else None
            options = pulumi.ResourceOptions(parent=self, depends_on=above)
            self.resources[role] = make(f"{name}-{role.replace('_', '-')}", customize(manifest, changes.get(role)), options)
        self.namespace = pulumi.Output.from_input(environment.namespace)
        self.register_outputs({"namespace": self.namespace})
