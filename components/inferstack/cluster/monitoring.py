"""Scraping, rules, alerts and boards of an environment, for each backend from the same source; pure.

`bundled` is Prometheus, Alertmanager and Grafana in the namespace; `operator` the objects of the Prometheus operator; `gmp` those of
Google Managed Service for Prometheus; `azure` those of Azure Monitor, whose rules are resources of Azure (`azure_rule_groups`).
"""

import json
from typing import Any

from inferstack.cluster.monitoring_servers import server_objects
from inferstack.cluster.names import AUTOSCALER, SLOT_LABEL, component_labels, metadata
from inferstack.environment import Environment
from inferstack.planning.savings import fixed_hourly_usd, replica_hourly_usd
from inferstack_dashboards import Settings
from inferstack_dashboards.output import alert_groups, boards, recording_groups
from inferstack_dashboards.recording import prices

MONITORING = "inferstack-monitoring"
METRICS_PORT = "metrics"
"""Name of the port that this kit's runtime is scraped at."""
SCRAPE_INTERVAL = "30s"
_AZURE_MOST_RULES = 20
"""Rules that one group of Azure may hold (Azure Monitor service limits)."""
_AZURE_SEVERITY = {"page": 1, "ticket": 3, "none": 4}


def settings_of(environment: Environment) -> Settings:
    """Thresholds and prices of the environment's rules. Raises UnknownThreshold."""
    known = prices(replica_hourly_usd(environment), fixed_hourly_usd(environment), environment.budget.hourly_usd)
    return Settings(thresholds=environment.monitoring.thresholds, prices=known)


def rule_groups(environment: Environment) -> list[dict[str, Any]]:
    """Every rule group of the environment, as Prometheus reads it. Raises UnknownThreshold."""
    settings = settings_of(environment)
    return recording_groups(settings) + alert_groups(settings)


def monitoring_objects(environment: Environment, name: str, port: str = METRICS_PORT) -> dict[str, dict[str, Any]]:
    """The backend's objects by role; none for `none`. `name` is the environment's, the value of the label `environment`; `port` the
    name of the pods' port with the metrics."""
    backend = environment.monitoring.backend
    if backend == "none":
        return {}
    texts = {f"{uid}.json": json.dumps(board, separators=(",", ":")) for uid, board in boards(settings_of(environment)).items()}
    if backend == "bundled":
        return server_objects(environment, name, port, rule_groups(environment), texts)
    found = {
        f"board_{uid.removesuffix('.json').replace('-', '_')}": _board(environment, uid.removesuffix(".json"), text)
        for uid, text in texts.items()
    }
    if backend == "operator":
        found |= _pod_monitors(environment, name, port, "monitoring.coreos.com/v1")
        found["rules"] = _rules(environment, "monitoring.coreos.com/v1", "PrometheusRule")
    elif backend == "gmp":
        found["scrape"] = _pod_monitoring(
            environment, name, "inferstack", port, _selector(), {"fromPod": [{"from": SLOT_LABEL, "to": "slot"}]}
        )
        if environment.scaling.renderer == "autoscaler":
            found["scrape_autoscaler"] = _pod_monitoring(environment, name, "autoscaler", "http", _autoscaler(), {})
        found["rules"] = _rules(environment, "monitoring.googleapis.com/v1", "Rules")
    else:
        found |= _pod_monitors(environment, name, port, "azmonitoring.coreos.com/v1")
    return found


def azure_rule_groups(environment: Environment, workspace: str, actions: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Properties of Microsoft.AlertsManagement/prometheusRuleGroups, 20 rules each; `actions`: action group by severity.

    `workspace` is the resource id of the Azure Monitor workspace.
    """
    found = []
    for group in rule_groups(environment):
        rules = [_azure_rule(rule, actions or {}) for rule in group["rules"]]
        for start in range(0, len(rules), _AZURE_MOST_RULES):
            part = rules[start : start + _AZURE_MOST_RULES]
            name = f"{group['name']}-{start // _AZURE_MOST_RULES}"
            found.append({"name": name, "scopes": [workspace], "enabled": True, "interval": "PT1M", "rules": part})
    return found


def _azure_rule(rule: dict[str, Any], actions: dict[str, str]) -> dict[str, Any]:
    if "record" in rule:
        return {"record": rule["record"], "expression": rule["expr"]}
    severity = rule["labels"]["severity"]
    found = {"alert": rule["alert"], "expression": rule["expr"], "for": _iso(rule["for"]), "severity": _AZURE_SEVERITY[severity]}
    found |= {"labels": rule["labels"], "annotations": rule["annotations"], "enabled": True}
    return found | ({"actions": [{"actionGroupId": actions[severity]}]} if severity in actions else {})


def _iso(duration: str) -> str:
    """A Prometheus duration in the form of ISO 8601.

    >>> _iso("5m"), _iso("0s")
    ('PT5M', 'PT0S')
    """
    return f"PT{duration.upper()}"


def _labels() -> dict[str, str]:
    return component_labels("monitoring")


def _selector() -> dict[str, Any]:
    """The runtimes of both slots."""
    return {"matchLabels": {"app.kubernetes.io/name": "inferstack"}, "matchExpressions": [{"key": SLOT_LABEL, "operator": "Exists"}]}


def _autoscaler() -> dict[str, Any]:
    """The pod of this kit's autoscaler."""
    return {"matchLabels": component_labels("autoscaler")}


def _pod_monitors(environment: Environment, name: str, port: str, api: str) -> dict[str, dict[str, Any]]:
    source = "__meta_kubernetes_pod_label_" + "".join(c if c.isalnum() else "_" for c in SLOT_LABEL)
    slot = {"sourceLabels": [source], "targetLabel": "slot"}
    found = {"scrape": _pod_monitor(environment, name, api, MONITORING, "inferstack", port, _selector(), [slot])}
    if environment.scaling.renderer == "autoscaler":
        found["scrape_autoscaler"] = _pod_monitor(environment, name, api, AUTOSCALER, "autoscaler", "http", _autoscaler(), [])
    return found


def _pod_monitor(
    environment: Environment, name: str, api: str, meta: str, job: str, port: str, selector: dict[str, Any], more: list[dict[str, Any]]
) -> dict[str, Any]:
    relabel = [
        *more,
        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"},
        {"targetLabel": "environment", "replacement": name},
        {"targetLabel": "job", "replacement": job},
    ]
    spec = {
        "selector": selector,
        "namespaceSelector": {"matchNames": [environment.namespace]},
        "podMetricsEndpoints": [{"port": port, "interval": SCRAPE_INTERVAL, "relabelings": relabel}],
    }
    return {"apiVersion": api, "kind": "PodMonitor", "metadata": metadata(meta, environment.namespace, _labels()), "spec": spec}


def _pod_monitoring(
    environment: Environment, name: str, job: str, port: str, selector: dict[str, Any], labels: dict[str, Any]
) -> dict[str, Any]:
    """Google's own object; it keeps `instance`, `job` and `namespace` to itself, so that `job` is the name of this object."""
    renamed = [{"action": "replace", "targetLabel": "environment", "replacement": name}]
    spec = {
        "selector": selector,
        "endpoints": [{"port": port, "interval": SCRAPE_INTERVAL, "metricRelabeling": renamed}],
        "targetLabels": {"metadata": ["pod", "container"], **labels},
    }
    return {
        "apiVersion": "monitoring.googleapis.com/v1",
        "kind": "PodMonitoring",
        "metadata": metadata(job, environment.namespace, _labels()),
        "spec": spec,
    }


def _rules(environment: Environment, api: str, kind: str) -> dict[str, Any]:
    groups = [{**group, "interval": SCRAPE_INTERVAL} for group in rule_groups(environment)]
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": metadata(MONITORING, environment.namespace, _labels()),
        "spec": {"groups": groups},
    }


def _board(environment: Environment, uid: str, text: str) -> dict[str, Any]:
    """A ConfigMap that Grafana's sidecar finds by its label."""
    labels = _labels() | {"grafana_dashboard": "1"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(uid, environment.namespace, labels),
        "data": {f"{uid}.json": text},
    }
