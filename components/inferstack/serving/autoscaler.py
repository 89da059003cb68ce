"""Autoscaler: this kit's own scaler of the slots, where `scaling.renderer` is `autoscaler`."""

from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.resources import check_roles, customize, make
from inferstack.environment import parse_environment
from inferstack.serving.manifests.autoscaler import autoscaler_objects


class AutoscalerArgs(TypedDict):
    """Arguments of an Autoscaler."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md; `scaling.*`, `slots.*` and `engine.image` decide."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role."""


class Autoscaler(pulumi.ComponentResource):
    """A Deployment of one process, its rights, Service, NetworkPolicy and PodDisruptionBudget, and a name for each group of replicas."""

    def __init__(self, name: str, args: AutoscalerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"Autoscaler {name}")
        wanted = autoscaler_objects(environment)
        check_roles(f"Autoscaler {name}", args.get("customize"), frozenset(wanted))
        super().__init__("inferstack:index:Autoscaler", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        changes = args.get("customize", {})
        options = pulumi.ResourceOptions(parent=self)
        self.resources = {
            role: make(f"{name}-{role.replace('_', '-')}", customize(manifest, changes.get(role)), options)
            for role, manifest in wanted.items()
        }
        self.register_outputs({})
