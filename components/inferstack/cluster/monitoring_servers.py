"""Prometheus, Alertmanager and Grafana as StatefulSets of the environment's namespace; pure.

Each keeps its data on a volume, runs as nobody with a read-only root, and is reached inside the namespace only (`kubectl port-forward`).
Grafana has no anonymous access; its password is in the Secret `inferstack-grafana`.
"""

import hashlib
import json
from typing import Any

from inferstack.cluster.images import reference
from inferstack.cluster.monitoring_config import PORTS, alertmanager_config, datasource, prometheus_config, provider, server_name
from inferstack.cluster.names import SLOT_LABEL, component_labels, metadata
from inferstack.cluster.security import TOKEN_PATH, api_token, container_security, pod_security
from inferstack.environment import Environment

GRAFANA_SECRET = "inferstack-grafana"  # noqa: S105 - a name
PASSWORD_KEY = "admin-password"  # noqa: S105 - a name
_STORAGE = {"prometheus": "20Gi", "alertmanager": "1Gi", "grafana": "1Gi"}
_MEMORY = {"prometheus": "2Gi", "alertmanager": "128Mi", "grafana": "512Mi"}
_DATA = {"prometheus": "/prometheus", "alertmanager": "/alertmanager", "grafana": "/var/lib/grafana"}
_READY = {"prometheus": "/-/ready", "alertmanager": "/-/ready", "grafana": "/api/health"}
RETENTION = "35d"
"""Longer than the 30 days of the objectives; the volume bounds it too."""


def server_objects(
    environment: Environment, name: str, port: str, groups: list[dict[str, Any]], boards: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Every object by role, the Secret with the password excepted: it is made once, by the component."""
    scrape = {"prometheus.yml": _text(prometheus_config(environment, name, port))}
    rules = {"rules.yml": _text({"groups": groups})}
    alertmanager = {"alertmanager.yml": _text(alertmanager_config(environment))}
    provisioning = {"datasource.yml": _text(datasource(environment)), "boards.yml": _text(provider())}
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


def _text(data: Any) -> str:
    return json.dumps(data, indent=1, sort_keys=True)


def _config(environment: Environment, suffix: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(server_name(suffix), environment.namespace, component_labels("monitoring")),
        "data": data,
    }


def _account(environment: Environment) -> dict[str, Any]:
    meta = metadata(server_name("prometheus"), environment.namespace, component_labels("monitoring"))
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}


def _role(environment: Environment) -> dict[str, Any]:
    meta = metadata(server_name("prometheus"), environment.namespace, component_labels("monitoring"))
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}


def _role_binding(environment: Environment) -> dict[str, Any]:
    name = server_name("prometheus")
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(name, environment.namespace, component_labels("monitoring")),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": environment.namespace}],
    }


def _service(environment: Environment, server: str) -> dict[str, Any]:
    labels = component_labels(server)
    spec = {"type": "ClusterIP", "selector": labels, "ports": [{"name": "http", "port": PORTS[server], "targetPort": "http"}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(server_name(server), environment.namespace, labels), "spec": spec}


def _disruption_budget(environment: Environment, server: str) -> dict[str, Any]:
    """A single replica may be moved: its volume goes with it."""
    labels = component_labels(server)
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": labels}, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    meta = metadata(server_name(server), environment.namespace, labels)
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec}


def _network_policy(environment: Environment, server: str) -> dict[str, Any]:
    """Grafana and slots ask Prometheus, Prometheus and slots (the monitoring API) Alertmanager; nobody in the cluster asks Grafana."""
    runtimes = {"podSelector": {"matchExpressions": [{"key": SLOT_LABEL, "operator": "Exists"}]}}
    peers = {
        "prometheus": [{"podSelector": {"matchLabels": component_labels("grafana")}}, runtimes],
        "alertmanager": [{"podSelector": {"matchLabels": component_labels("prometheus")}}, runtimes],
        "grafana": [],
    }[server]
    port = [{"protocol": "TCP", "port": PORTS[server]}]
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
    if environment.scaling.renderer == "autoscaler":
        egress["prometheus"].append({"to": [{"podSelector": {"matchLabels": component_labels("autoscaler")}}]})
    labels = component_labels(server)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(server_name(server), environment.namespace, labels),
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
        "serviceName": server_name(server),
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": template,
        "volumeClaimTemplates": [claim],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(server_name(server), environment.namespace, labels),
        "spec": spec,
    }


def _pod(environment: Environment, server: str) -> dict[str, Any]:
    scrapes = server == "prometheus"
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": "/etc/config", "readOnly": True},
        {"name": "data", "mountPath": _DATA[server]},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": server_name(server)}},
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
        volumes.append({"name": "boards", "configMap": {"name": server_name("grafana-boards")}})
    if scrapes:
        mounts.append({"name": "token", "mountPath": TOKEN_PATH, "readOnly": True})
        volumes.append({"name": "token", "projected": api_token()})
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
        "ports": [{"name": "http", "containerPort": PORTS[server]}],
        "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 20, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": "100m", "memory": _MEMORY[server], "ephemeral-storage": "128Mi"},
            "limits": {"memory": _MEMORY[server], "ephemeral-storage": "128Mi"},
        },
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }
    return {
        "serviceAccountName": server_name("prometheus") if scrapes else "default",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60 if scrapes else 30,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": volumes,
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
