"""InferenceRoute: the gateway, the route that always names both slots, and the template that its rules are made from."""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.resources import check_roles, customize, make
from inferstack.environment import parse_environment
from inferstack.serving.manifests import route as manifests
from inferstack.serving.manifests.gateway import route_policy

ROLES = frozenset({"gateway", "route", "template", "policy"})


class InferenceRouteArgs(TypedDict):
    """Arguments of an InferenceRoute."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role: gateway, route, template, policy."""


@dataclass(frozen=True)
class RouteResources:
    """The native resources; no gateway where an existing one is used."""

    gateway: pulumi.CustomResource | None
    route: pulumi.CustomResource
    template: pulumi.CustomResource
    policy: pulumi.CustomResource | None
    """Only where the gateway's own defaults would cut a long answer."""


class InferenceRoute(pulumi.ComponentResource):
    """Gateway, HTTPRoute and the route's template.

    `spec.rules` is ignored after the first creation: the promotion owns it and renders it from the template and the weights of its
    journal, so that no update of this stack can move traffic.
    """

    route: pulumi.Output[str]
    """Name of the HTTPRoute."""

    def __init__(self, name: str, args: InferenceRouteArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"InferenceRoute {name}")
        check_roles(f"InferenceRoute {name}", args.get("customize"), ROLES)
        super().__init__("inferstack:index:InferenceRoute", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        changes = args.get("customize", {})

        def one(role: str, manifest: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> pulumi.CustomResource:
            options = pulumi.ResourceOptions.merge(pulumi.ResourceOptions(parent=self), opts)
            return make(f"{name}-{role}", customize(manifest, changes.get(role)), options)

        wanted = manifests.gateway(environment)
        gateway = one("gateway", wanted) if wanted else None
        template = one("template", manifests.template_map(environment))
        route = one(
            "route",
            manifests.route(environment),
            pulumi.ResourceOptions(ignore_changes=["spec.rules"], depends_on=[gateway] if gateway else None),
        )
        told = route_policy(environment)
        policy = one("policy", told, pulumi.ResourceOptions(depends_on=[route])) if told else None
        self.resources = RouteResources(gateway, route, template, policy)
        self.route = pulumi.Output.from_input("inferstack")
        self.register_outputs({"route": self.route})
