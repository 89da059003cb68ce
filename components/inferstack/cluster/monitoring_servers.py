"""Prometheus, Alertmanager and Grafana as StatefulSets of the environment's namespace; pure.

Each keeps its data on a volume, runs as nobody with a read-only root, and is reached inside the namespace only (`kubectl port-forward`).
Grafana has no anonymous access; its password is in the Secret `inferstack-grafana`.
"""

import hashlib
import json
from typing import Any

from inferstack.cluster.images import reference
from inferstack.cluster.names import SLOT_LABEL, component_labels, metadata
from inferstack.environment import Environment

GRAFANA_SECRET = "inferstack-grafana"  # noqa: S105 - a name
PASSWORD_KEY = "admin-password"  # noqa: S105 - a name
_USER = 10001
_PORTS = {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000}
_STORAGE = {"prometheus": "20Gi", "alertmanager": "1Gi", "grafana": "1Gi"}
_MEMORY = {"prometheus": "2Gi", "alertmanager": "128Mi", "grafana": "512Mi"}
_DATA = {"prometheus": "/prometheus", "alertmanager": "/alertmanager", "grafana": "/var/lib/grafana"}
_READY = {"prometheus": "/-/ready", "alertmanager": "/-/ready", "grafana": "/api/health"}
RETENTION = "35d"
"""Longer than the 30 days of the objectives; the volume bounds it too."""


def server_objects(environment: Environment, name: str, groups: list[dict[str, Any]], boards: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Every object by role, the Secret with the password excepted: it is made once, by the component."""
    scrape = {key: _text(value) for key, value in {"prometheus.yml": prometheus_config(environment, name)}.items()}
    rules = {"rules.yml": _text({"groups": groups})}
    alertmanager = {"alertmanager.yml": _text(alertmanager_config(environment))}
    provisioning = {"datasource.yml": _text(_datasource(environment)), "boards.yml": _text(_provider())}
    found = {
        "prometheus_config": _config(environment, "prometheus", scrape | rules),
        "alertmanager_config": _config(environment, "alertmanager", alertmanager),
        "grafana_config": _config(environment, "grafana", provisioning),
        "grafana_boards": _config(environment, "grafana-boards", boards),
        "account": _account(environment),
        "role": _role(environment),
        "role_binding": _role_binding(environment),
    }
    texts = {"prometheus": scrape | rules, "alertmanager": alertmanager, "grafana": provisioning | boards}
    for server, content in texts.items():
        found[f"{server}_service"] = _service(environment, server)
        found[f"{server}_stateful_set"] = _stateful_set(environment, server, content)
        found[f"{server}_disruption_budget"] = _disruption_budget(environment, server)
        found[f"{server}_network_policy"] = _network_policy(environment, server)
    return found


def prometheus_config(environment: Environment, name: str) -> dict[str, Any]:
    """What Prometheus scrapes: the ports `metrics` of the slots' pods, with the labels that rules and boards read."""
    slot = "__meta_kubernetes_pod_label_" + "".join(c if c.isalnum() else "_" for c in SLOT_LABEL)
    relabel = [
        {"source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "regex": "inferstack", "action": "keep"},
        {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": "metrics", "action": "keep"},
        {"source_labels": [slot], "regex": "blue|green", "action": "keep"},
        {"source_labels": [slot], "target_label": "slot"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "instance"},
        {"target_label": "environment", "replacement": name},
    ]
    discovery = [{"role": "pod", "namespaces": {"names": [environment.namespace]}}]
    return {
        "global": {"scrape_interval": "30s", "evaluation_interval": "30s"},
        "rule_files": ["/etc/config/rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"{_name('alertmanager')}:{_PORTS['alertmanager']}"]}]}]},
        "scrape_configs": [{"job_name": "inferstack", "kubernetes_sd_configs": discovery, "relabel_configs": relabel}],
    }


def alertmanager_config(environment: Environment) -> dict[str, Any]:
    """Who is told what: a receiver per severity that has a secret, and which alerts others make needless."""
    receivers: list[dict[str, Any]] = [{"name": "none"}]
    routes = []
    for severity in sorted(environment.monitoring.receivers):
        hook = {"url_file": f"/etc/receivers/{severity}/url", "send_resolved": True}
        receivers.append({"name": severity, "webhook_configs": [hook]})
        routes.append({"receiver": severity, "matchers": [f'severity="{severity}"']})
    same = ["environment", "slot"]
    return {
        "route": {
            "receiver": "none",
            "group_by": ["alertname", "environment", "slot"],
            "group_wait": "30s",
            "repeat_interval": "4h",
            "routes": routes,
        },
        "receivers": receivers,
        "inhibit_rules": [
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
        ],
    }


def _name(server: str) -> str:
    return f"inferstack-{server}"


def _text(data: Any) -> str:
    return json.dumps(data, indent=1, sort_keys=True)


def _datasource(environment: Environment) -> dict[str, Any]:
    url = f"http://{_name('prometheus')}.{environment.namespace}.svc:{_PORTS['prometheus']}"
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


def _provider() -> dict[str, Any]:
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


def _config(environment: Environment, suffix: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(_name(suffix), environment.namespace, component_labels("monitoring")),
        "data": data,
    }


def _account(environment: Environment) -> dict[str, Any]:
    meta = metadata(_name("prometheus"), environment.namespace, component_labels("monitoring"))
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}


def _role(environment: Environment) -> dict[str, Any]:
    meta = metadata(_name("prometheus"), environment.namespace, component_labels("monitoring"))
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}


def _role_binding(environment: Environment) -> dict[str, Any]:
    name = _name("prometheus")
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(name, environment.namespace, component_labels("monitoring")),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": environment.namespace}],
    }


def _service(environment: Environment, server: str) -> dict[str, Any]:
    labels = component_labels(server)
    spec = {"type": "ClusterIP", "selector": labels, "ports": [{"name": "http", "port": _PORTS[server], "targetPort": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(_name(server), environment.namespace, labels), "spec": spec}


def _disruption_budget(environment: Environment, server: str) -> dict[str, Any]:
    """A single replica may be moved: its volume goes with it."""
    labels = component_labels(server)
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": labels}, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    meta = metadata(_name(server), environment.namespace, labels)
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec}


def _network_policy(environment: Environment, server: str) -> dict[str, Any]:
    """Grafana and slots ask Prometheus, Prometheus and slots (the monitoring API) Alertmanager; nobody in the cluster asks Grafana."""
    runtimes = {"podSelector": {"matchExpressions": [{"key": SLOT_LABEL, "operator": "Exists"}]}}
    peers = {
        "prometheus": [{"podSelector": {"matchLabels": component_labels("grafana")}}, runtimes],
        "alertmanager": [{"podSelector": {"matchLabels": component_labels("prometheus")}}, runtimes],
        "grafana": [],
    }[server]
    port = [{"protocol": "TCP", "port": _PORTS[server]}]
    dns = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    egress: dict[str, list[dict[str, Any]]] = {
        "prometheus": [
            {"to": [runtimes]},
            {"to": [{"podSelector": {"matchLabels": component_labels("alertmanager")}}]},
            {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]},
        ],
        "alertmanager": [{"ports": [{"protocol": "TCP", "port": 443}]}],
        "grafana": [{"to": [{"podSelector": {"matchLabels": component_labels("prometheus")}}]}],
    }
    labels = component_labels(server)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(_name(server), environment.namespace, labels),
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers, "ports": port}] if peers else [],
            "egress": [dns, *egress[server]],
        },
    }


def _stateful_set(environment: Environment, server: str, content: dict[str, str]) -> dict[str, Any]:
    labels = component_labels(server)
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": _STORAGE[server]}}},
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    template = {"metadata": {"labels": labels, "annotations": {"inferstack.dev/config": digest}}, "spec": _pod(environment, server)}
    spec = {
        "serviceName": _name(server),
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": template,
        "volumeClaimTemplates": [claim],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(_name(server), environment.namespace, labels),
        "spec": spec,
    }


def _pod(environment: Environment, server: str) -> dict[str, Any]:
    scrapes = server == "prometheus"
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": "/etc/config", "readOnly": True},
        {"name": "data", "mountPath": _DATA[server]},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": _name(server)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]
    mounts.append({"name": "tmp", "mountPath": "/tmp"})  # noqa: S108 - inside the container
    if server == "grafana":
        mounts = [mount for mount in mounts if mount["name"] != "config"]
        for kind, file in (("datasources", "datasource.yml"), ("dashboards", "boards.yml")):
            mounts.append({"name": "config", "mountPath": f"/etc/provisioning/{kind}/{file}", "subPath": file, "readOnly": True})
        mounts.append({"name": "boards", "mountPath": "/etc/boards", "readOnly": True})
        mounts.append({"name": "password", "mountPath": "/etc/password", "readOnly": True})
        volumes.append({"name": "password", "secret": {"secretName": GRAFANA_SECRET, "defaultMode": 0o440}})
        volumes.append({"name": "boards", "configMap": {"name": _name("grafana-boards")}})
    if scrapes:
        mounts.append({"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True})
        volumes.append({"name": "token", "projected": _token()})
    if server == "alertmanager":
        for severity, secret in sorted(environment.monitoring.receivers.items()):
            mounts.append({"name": f"receiver-{severity}", "mountPath": f"/etc/receivers/{severity}", "readOnly": True})
            volumes.append({"name": f"receiver-{severity}", "secret": {"secretName": secret, "defaultMode": 0o440}})
    probe = {"httpGet": {"path": _READY[server], "port": "http"}}
    container = {
        "name": server,
        "image": reference(server),
        "args": _arguments(server),
        "env": _variables(server),
        "ports": [{"name": "http", "containerPort": _PORTS[server]}],
        "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 20, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "100m", "memory": _MEMORY[server], "ephemeral-storage": "128Mi"},
            "limits": {"memory": _MEMORY[server], "ephemeral-storage": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        "volumeMounts": mounts,
    }
    return {
        "serviceAccountName": _name("prometheus") if scrapes else "default",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60 if scrapes else 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }


def _token() -> dict[str, Any]:
    """What a client of the API server needs to list pods, with a token that expires; only the server that scrapes has it."""
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    return {
        "defaultMode": 0o440,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
    }


def _arguments(server: str) -> list[str]:
    if server == "prometheus":
        size = "--storage.tsdb.retention.size=18GB"
        return [
            "--config.file=/etc/config/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            f"--storage.tsdb.retention.time={RETENTION}",
            size,
        ]
    if server == "alertmanager":
        return ["--config.file=/etc/config/alertmanager.yml", "--storage.path=/alertmanager", "--cluster.listen-address="]
    return []


def _variables(server: str) -> list[dict[str, Any]]:
    if server != "grafana":
        return []
    found = {
        "GF_AUTH_ANONYMOUS_ENABLED": "false",
        "GF_USERS_ALLOW_SIGN_UP": "false",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_SECURITY_ADMIN_PASSWORD__FILE": f"/etc/password/{PASSWORD_KEY}",
        "GF_PATHS_PROVISIONING": "/etc/provisioning",
    }
    return [{"name": key, "value": value} for key, value in found.items()]
