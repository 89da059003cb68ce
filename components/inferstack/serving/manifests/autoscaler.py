"""This kit's autoscaler as a Deployment: one process that may read and set the slots' numbers of replicas and nothing else; pure.

Each slot's bounds and policy stand in a ConfigMap beside its Deployment (`scaling.scaler`). A promotion raises the fewest replicas there
before it raises the number itself, so that the autoscaler never takes back what a promotion has brought.
"""

from typing import Any

from inferstack.cluster.names import AUTOSCALER, SLOT_LABEL, component_labels, metadata, registration_name, slot_labels, slot_name
from inferstack.cluster.security import TOKEN_PATH, api_token, container_security, pod_security
from inferstack.environment import METRICS_PORT, Environment, SlotName
from inferstack.environment.quantity import quantity
from inferstack.planning.savings import fixed_hourly_usd, replica_hourly_usd
from inferstack.serving.manifests.config import KEYS_PATH, digest, text
from inferstack.serving.manifests.groups import ReplicaGroup, replica_groups
from inferstack.serving.manifests.network import dns, tcp

PORT = 8090
INTERVAL_SECONDS = 15
_CONFIG_FOLDER = "/etc/inferstack/config"
_FILE = "autoscaler.json"
_MEMORY = "128Mi"
"""Requested and allowed; the process takes about 45 MiB."""


def autoscaler_objects(environment: Environment) -> dict[str, dict[str, Any]]:
    """Every object by role; none where something else scales."""
    if environment.scaling.renderer != "autoscaler":
        return {}
    labels, namespace = component_labels("autoscaler"), environment.namespace
    meta = metadata(AUTOSCALER, namespace, labels)
    content = text(autoscaler_config(environment))
    found: dict[str, dict[str, Any]] = {
        "config": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {_FILE: content}},
        "service_account": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False},
        "role": {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": _rules(environment)},
        "role_binding": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": AUTOSCALER},
            "subjects": [{"kind": "ServiceAccount", "name": AUTOSCALER, "namespace": namespace}],
        },
        "network_policy": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": meta,
            "spec": {
                "podSelector": {"matchLabels": labels},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [tcp(PORT)]}],
                "egress": [
                    dns(),
                    {"ports": [tcp(443), tcp(6443)]},
                    {
                        "to": [{"podSelector": {"matchExpressions": [{"key": SLOT_LABEL, "operator": "Exists"}]}}],
                        "ports": [tcp(METRICS_PORT)],
                    },
                ],
            },
        },
        "service": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"type": "ClusterIP", "selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
        },
        "deployment": {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": _deployment(environment, labels, content)},
        "disruption_budget": {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        },
    }
    for slot, group in _targets(environment):
        found[f"replicas_{_key(slot, group).replace('-', '_')}"] = _replicas(environment, slot, group)
    return found


def autoscaler_config(environment: Environment) -> dict[str, Any]:
    """The file of `inferstack-runtime autoscale`."""
    scaling, groups = environment.scaling, replica_groups(environment)
    found: dict[str, Any] = {
        "listen": {"host": "0.0.0.0", "port": PORT},
        "keys_file": f"{KEYS_PATH}/keys.json",
        "tiers": sorted(environment.access.tiers),
        "interval_seconds": INTERVAL_SECONDS,
        "policy": {
            "queue": scaling.queue_target,
            "kv": scaling.kv_target,
            "cpu": scaling.cpu_percent / 100,
            "memory": scaling.memory_percent / 100,
            "down_seconds": scaling.down_window_seconds,
        },
        "targets": {_key(slot, group): _target(environment, slot, group) for slot, group in _targets(environment)},
    }
    if scaling.prediction_horizon_minutes:
        found["policy"]["forecast_samples"] = max(1, scaling.prediction_horizon_minutes * 60 // INTERVAL_SECONDS)
    left = (environment.budget.hourly_usd or 0) - (fixed_hourly_usd(environment) or 0)
    if len(groups) == 1 and (price := replica_hourly_usd(environment)) and left > 0:
        found["budget_hourly_usd"] = left
        for target in found["targets"].values():
            target["replica"]["hourly_usd"] = price
    return found


def _targets(environment: Environment) -> list[tuple[SlotName, ReplicaGroup]]:
    return [(slot, group) for slot in SlotName for group in replica_groups(environment)]


def _key(slot: SlotName, group: ReplicaGroup) -> str:
    """The target's `model_key`: a slot keeps its own whatever model a promotion brings into it."""
    return f"{slot}-{group.name}" if group.name else str(slot)


def _target(environment: Environment, slot: SlotName, group: ReplicaGroup) -> dict[str, Any]:
    return {
        "metrics": [f"http://{_replicas_name(slot, group)}.{environment.namespace}.svc:{METRICS_PORT}/metrics"],
        "scale": {
            "kind": "kubernetes",
            "namespace": environment.namespace,
            "deployment": slot_name(slot, group.name),
            "registration": registration_name(slot, group.name),
        },
        "replica": {"cpu_cores": float(quantity(group.resources.cpu)), "memory_bytes": int(quantity(group.resources.memory))},
    }


def _rules(environment: Environment) -> list[dict[str, Any]]:
    """The numbers of the slots' own Deployments, and their registrations: nothing else, by name."""
    targets = _targets(environment)
    verbs = ["get", "patch"]
    return [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments/scale"],
            "resourceNames": [slot_name(slot, group.name) for slot, group in targets],
            "verbs": verbs,
        },
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [registration_name(slot, group.name) for slot, group in targets],
            "verbs": verbs,
        },
    ]


def _replicas_name(slot: SlotName, group: ReplicaGroup) -> str:
    return f"{slot_name(slot, group.name)}-replicas"


def _replicas(environment: Environment, slot: SlotName, group: ReplicaGroup) -> dict[str, Any]:
    """A name that stands for every ready replica, where a Service with an address of its own would show one of them."""
    labels = slot_labels(slot, group.name)
    spec = {"clusterIP": "None", "selector": labels, "ports": [{"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics"}]}
    meta = metadata(_replicas_name(slot, group), environment.namespace, labels)
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def _deployment(environment: Environment, labels: dict[str, str], content: str) -> dict[str, Any]:
    """One replica, replaced by ending the old one first: two would both act on what they see."""
    return {
        "replicas": 1,
        "revisionHistoryLimit": 3,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels, "annotations": {"inferstack.dev/config": digest(content)}},
            "spec": _pod(environment),
        },
    }


def _pod(environment: Environment) -> dict[str, Any]:
    alive, ready = ({"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 3} for path in ("/livez", "/readyz"))
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "config": (_CONFIG_FOLDER, {"configMap": {"name": AUTOSCALER}}),
        "keys": (KEYS_PATH, {"secret": {"secretName": environment.access.keys_secret}}),
        "token": (TOKEN_PATH, {"projected": api_token()}),
    }
    spec: dict[str, Any] = {
        "serviceAccountName": AUTOSCALER,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": "autoscaler",
                "image": environment.engine.image,
                "args": ["autoscale", "--config", f"{_CONFIG_FOLDER}/{_FILE}"],
                "ports": [{"name": "http", "containerPort": PORT}],
                "startupProbe": {**alive, "periodSeconds": 2, "failureThreshold": 30},
                "readinessProbe": {**ready, "periodSeconds": 5},
                "livenessProbe": {**alive, "periodSeconds": 10, "failureThreshold": 6},
                "resources": {
                    "requests": {"cpu": "50m", "memory": _MEMORY, "ephemeral-storage": "32Mi"},
                    "limits": {"memory": _MEMORY, "ephemeral-storage": "32Mi"},
                },
                "securityContext": container_security(),
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [{"name": name, "mountPath": path, "readOnly": True} for name, (path, _) in volumes.items()],
            }
        ],
        "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
    }
    if environment.engine.pull_secret:
        spec["imagePullSecrets"] = [{"name": environment.engine.pull_secret}]
    if environment.production:
        spec["priorityClassName"] = f"inferstack-{environment.namespace}-serving"
    return spec
