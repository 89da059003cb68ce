"""Secrets that an environment refers to, read from a store by the External Secrets operator; pure.

The operator is the cluster's own (its API is `external-secrets.io/v1`), and so is the ClusterSecretStore: it holds the right to read the
cloud's secret manager, which no environment is given.
"""

from typing import Any

from inferstack.cluster.names import component_labels, metadata
from inferstack.environment import Environment


def external_secrets(environment: Environment) -> dict[str, dict[str, Any]]:
    """One ExternalSecret per Secret, by role; none where the environment names no store."""
    if environment.secrets is None:
        return {}
    return {f"secret_{name}": _external(environment, name, kind) for name, kind in referenced(environment).items()}


def referenced(environment: Environment) -> dict[str, str]:
    """Name and type of every Secret that must exist in the namespace before the slots start."""
    found = {environment.access.keys_secret: "Opaque"} if environment.engine.kind != "openai" else {}  # which is given no key
    if environment.cache.backend == "external" and environment.cache.url_secret:
        found[environment.cache.url_secret] = "Opaque"
    if environment.gateway.tls_secret and not environment.gateway.existing:
        found[environment.gateway.tls_secret] = "kubernetes.io/tls"
    if environment.engine.hub_secret:
        found[environment.engine.hub_secret] = "Opaque"
    if environment.engine.pull_secret:
        found[environment.engine.pull_secret] = "kubernetes.io/dockerconfigjson"
    return found | dict.fromkeys(environment.monitoring.receivers.values(), "Opaque")


def _external(environment: Environment, name: str, kind: str) -> dict[str, Any]:
    store = environment.secrets
    assert store is not None
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": metadata(name, environment.namespace, component_labels("secrets")),
        "spec": {
            "refreshInterval": f"{store.refresh_seconds}s",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": store.name},
            "target": {"name": name, "creationPolicy": "Owner", "template": {"type": kind}},
            "dataFrom": [{"extract": {"key": f"{store.prefix}{name}"}}],
        },
    }
