"""Monitoring: the scrape configuration of an environment's slots for the backend that collects."""

from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.resources import check_roles, customize, make
from inferstack.cluster.scrape import scrape_objects
from inferstack.environment import parse_environment

ROLES = frozenset({"pods"})


class MonitoringArgs(TypedDict):
    """Arguments of a Monitoring."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md; `monitoring.backend` decides."""
    port: NotRequired[str]
    """Name of the pods' port with the metrics: `metrics` (default), or `http` where the engine serves them beside its API."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role."""


class Monitoring(pulumi.ComponentResource):
    """PodMonitor (operator, azure) or PodMonitoring (gmp) for both slots."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"Monitoring {name}")
        check_roles(f"Monitoring {name}", args.get("customize"), ROLES)
        super().__init__("inferstack:index:Monitoring", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        changes = args.get("customize", {})
        options = pulumi.ResourceOptions(parent=self)
        self.resources = {
            role: make(f"{name}-{role}", customize(manifest, changes.get(role)), options)
            for role, manifest in scrape_objects(environment, args.get("port", "metrics")).items()
        }
        self.register_outputs({})
