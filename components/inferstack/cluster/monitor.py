"""Monitoring: scraping, rules, alerts and boards of an environment, for the backend that `monitoring.backend` names."""

import secrets
from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.monitoring import METRICS_PORT, monitoring_objects
from inferstack.cluster.monitoring_servers import GRAFANA_SECRET, PASSWORD_KEY
from inferstack.cluster.names import component_labels, metadata
from inferstack.cluster.resources import check_roles, customize, make
from inferstack.environment import parse_environment


class MonitoringArgs(TypedDict):
    """Arguments of a Monitoring."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md; `monitoring.*` decides."""
    environment: str
    """Name of the environment, the value of the label `environment`."""
    port: NotRequired[str]
    """Name of the pods' port with the metrics: `metrics` (default), or `http` where the engine serves them beside its API."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role."""


class Monitoring(pulumi.ComponentResource):
    """The objects of one backend; for `bundled` also the Secret with Grafana's password, which is generated once."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"Monitoring {name}")
        wanted = monitoring_objects(environment, args["environment"], args.get("port", METRICS_PORT))
        check_roles(f"Monitoring {name}", args.get("customize"), frozenset(wanted))
        super().__init__("inferstack:index:Monitoring", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        changes = args.get("customize", {})
        options = pulumi.ResourceOptions(parent=self)
        self.resources = {
            role: make(f"{name}-{role.replace('_', '-')}", customize(manifest, changes.get(role)), options)
            for role, manifest in wanted.items()
        }
        if environment.monitoring.backend == "bundled":
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": metadata(GRAFANA_SECRET, environment.namespace, component_labels("monitoring")),
                "stringData": {PASSWORD_KEY: pulumi.Output.secret(secrets.token_urlsafe(24))},
            }
            once = pulumi.ResourceOptions(parent=self, ignore_changes=["data", "stringData"])
            self.resources["password"] = make(f"{name}-password", secret, once)
        self.register_outputs({})
