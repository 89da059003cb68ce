"""Valkey or Redis in the cluster: a disposable cache with bounded memory; pure.

It holds answers and counters that may be lost at any time: it has no volume, evicts what was used least, and its clients go on without it.
"""

import hashlib
from typing import Any

from inferstack.cluster.images import reference
from inferstack.cluster.names import CACHE, SLOT_LABEL, component_labels, metadata
from inferstack.cluster.security import container_security, pod_security
from inferstack.environment import Environment
from inferstack.environment.quantity import quantity
from inferstack.planning.caches import CACHE_OVERHEAD

_PORT = 6379


def cache_objects(environment: Environment, image: str | None = None) -> dict[str, dict[str, Any]]:
    """The cache's objects by role: config, service, stateful_set, network_policy, disruption_budget."""
    labels, namespace = component_labels("cache"), environment.namespace
    maximum = int(quantity(environment.cache.size))
    settings = f'maxmemory {maximum}\nmaxmemory-policy allkeys-lru\nsave ""\nappendonly no\nprotected-mode no\ntcp-keepalive 60\n'
    memory = f"{int(maximum * CACHE_OVERHEAD / 2**20)}Mi"
    spec: dict[str, Any] = {
        "serviceName": CACHE,
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels, "annotations": {"inferstack.dev/config": hashlib.sha256(settings.encode()).hexdigest()[:16]}},
            "spec": _pod(environment.cache.engine, image or reference(environment.cache.engine), memory),
        },
    }
    return {
        "config": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(CACHE, namespace, labels),
            "data": {"cache.conf": settings},
        },
        "service": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(CACHE, namespace, labels),
            "spec": {"type": "ClusterIP", "selector": labels, "ports": [{"name": "redis", "port": _PORT, "targetPort": "redis"}]},
        },
        "stateful_set": {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata(CACHE, namespace, labels), "spec": spec},
        "network_policy": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(CACHE, namespace, labels),
            "spec": {
                "podSelector": {"matchLabels": labels},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {
                        "from": [{"podSelector": {"matchExpressions": [{"key": SLOT_LABEL, "operator": "Exists"}]}}],
                        "ports": [{"protocol": "TCP", "port": _PORT}],
                    }
                ],
            },
        },
        "disruption_budget": {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(CACHE, namespace, labels),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        },
    }


def _pod(engine: str, image: str, memory: str) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": pod_security(),
        "containers": [
            {
                "name": "cache",
                "image": image,
                "command": [f"{engine}-server", "/etc/cache/cache.conf"],
                "ports": [{"name": "redis", "containerPort": _PORT}],
                "startupProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 2, "failureThreshold": 30},
                "readinessProbe": {"exec": {"command": [f"{engine}-cli", "ping"]}, "periodSeconds": 5, "timeoutSeconds": 3},
                "livenessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 10, "failureThreshold": 6},
                "resources": {
                    "requests": {"cpu": "100m", "memory": memory, "ephemeral-storage": "64Mi"},
                    "limits": {"memory": memory, "ephemeral-storage": "64Mi"},
                },
                "securityContext": container_security(),
                "volumeMounts": [{"name": "config", "mountPath": "/etc/cache", "readOnly": True}, {"name": "data", "mountPath": "/data"}],
            }
        ],
        "volumes": [{"name": "config", "configMap": {"name": CACHE}}, {"name": "data", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
