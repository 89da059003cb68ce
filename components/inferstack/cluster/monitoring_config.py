"""What Prometheus, Alertmanager and Grafana are told: scraping, receivers, inhibitions, data source and boards; pure."""

from typing import Any

from inferstack.cluster.names import SLOT_LABEL
from inferstack.environment import Environment

PORTS = {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000}


def server_name(server: str) -> str:
    """Name of a server's objects and of its Service."""
    return f"inferstack-{server}"


def prometheus_config(environment: Environment, name: str, port: str) -> dict[str, Any]:
    """What Prometheus scrapes: port `port` of the slots' pods, with the labels that rules, boards and scalers read; the autoscaler."""
    slot = "__meta_kubernetes_pod_label_" + "".join(c if c.isalnum() else "_" for c in SLOT_LABEL)
    relabel = [
        {"source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "regex": "inferstack", "action": "keep"},
        {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": port, "action": "keep"},
        {"source_labels": [slot], "regex": "blue|green", "action": "keep"},
        {"source_labels": [slot], "target_label": "slot"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "instance"},
        # By these two the scalers find a pod's series, as an operator's scraping would name them.
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {"target_label": "environment", "replacement": name},
    ]
    discovery = [{"role": "pod", "namespaces": {"names": [environment.namespace]}}]
    jobs = [{"job_name": "inferstack", "kubernetes_sd_configs": discovery, "relabel_configs": relabel}]
    if environment.scaling.renderer == "autoscaler":
        own = [{"source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"], "regex": "autoscaler", "action": "keep"}]
        jobs.append({"job_name": "autoscaler", "kubernetes_sd_configs": discovery, "relabel_configs": [*own, relabel[0], relabel[-1]]})
    return {
        "global": {"scrape_interval": "30s", "evaluation_interval": "30s"},
        "rule_files": ["/etc/config/rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"{server_name('alertmanager')}:{PORTS['alertmanager']}"]}]}]},
        "scrape_configs": jobs,
    }


def alertmanager_config(environment: Environment) -> dict[str, Any]:
    """Who is told what: a receiver per severity that has a secret, and which alerts others make needless."""
    receivers: list[dict[str, Any]] = [{"name": "none"}]
    routes = []
    for severity in sorted(environment.monitoring.receivers):
        hook = {"url_file": f"/etc/receivers/{severity}/url", "send_resolved": True}
        receivers.append({"name": severity, "webhook_configs": [hook]})
        routes.append({"receiver": severity, "matchers": [f'severity="{severity}"']})
    return {
        "route": {
            "receiver": "none",
            "group_by": ["alertname", "environment", "slot"],
            "group_wait": "30s",
            "repeat_interval": "4h",
            "routes": routes,
        },
        "receivers": receivers,
        "inhibit_rules": inhibitions(),
    }


def inhibitions() -> list[dict[str, Any]]:
    """Which alerts others make needless: pages silence tickets of the same slot, causes their consequences."""
    same = ["environment", "slot"]
    return [
        {"source_matchers": ['severity="page"'], "target_matchers": ['severity="ticket"'], "equal": same},
        {"source_matchers": ['alertname="MetricsMissing"'], "target_matchers": ['alertname="TargetDown"']},
        {
            "source_matchers": ['alertname="PromotionRunning"'],
            "target_matchers": ['severity="ticket"', 'alertname=~"QueueLong|KvCacheSaturated|BudgetExceeded"'],
            "equal": ["environment"],
        },
        {
            "source_matchers": ['alertname="ErrorBudgetBurnFast"'],
            "target_matchers": ['alertname=~"ErrorBudgetBurn|ErrorBudgetBurnSlow|ErrorBudgetBurnSlowest"'],
            "equal": ["environment"],
        },
    ]


def bundled_address(environment: Environment) -> str:
    """Where the Prometheus of `monitoring.backend: bundled` answers inside the cluster."""
    return f"http://{server_name('prometheus')}.{environment.namespace}.svc:{PORTS['prometheus']}"


def datasource(environment: Environment) -> dict[str, Any]:
    """Grafana's one data source: the Prometheus of the namespace."""
    url = bundled_address(environment)
    source = {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": url,
        "isDefault": True,
        "editable": False,
    }
    return {"apiVersion": 1, "datasources": [source]}


def provider() -> dict[str, Any]:
    """Where Grafana finds the boards; nobody edits or deletes them there."""
    options = {"path": "/etc/boards"}
    provider = {
        "name": "inferstack",
        "folder": "Inferstack",
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "options": options,
    }
    return {"apiVersion": 1, "providers": [provider]}
