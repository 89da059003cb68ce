"""Who collects the metrics of the slots: one scrape object per monitoring backend; pure."""

from typing import Any

from inferstack.cluster.names import SLOT_LABEL, component_labels, metadata
from inferstack.environment import Environment

_KINDS = {
    "operator": ("monitoring.coreos.com/v1", "PodMonitor"),
    "azure": ("azmonitoring.coreos.com/v1", "PodMonitor"),
    "gmp": ("monitoring.googleapis.com/v1", "PodMonitoring"),
}
_INTERVAL = "15s"


def scrape_objects(environment: Environment, port: str) -> dict[str, dict[str, Any]]:
    """The scrape object by its role `pods`; nothing where no backend of this kind collects.

    `port` is the name of the port with the metrics. The slot's label is carried over as `slot`, which scaling and gates select by.
    """
    backend = environment.monitoring.backend
    if backend not in _KINDS:
        return {}
    version, kind = _KINDS[backend]
    selector = {"matchLabels": {"app.kubernetes.io/name": "inferstack"}, "matchExpressions": [{"key": SLOT_LABEL, "operator": "Exists"}]}
    spec: dict[str, Any] = {"selector": selector}
    if backend == "gmp":
        spec["endpoints"] = [{"port": port, "interval": _INTERVAL}]
        spec["targetLabels"] = {"fromPod": [{"from": SLOT_LABEL, "to": "slot"}]}
    else:
        source = "__meta_kubernetes_pod_label_" + SLOT_LABEL.replace(".", "_").replace("/", "_")
        relabel = [{"sourceLabels": [source], "targetLabel": "slot"}]
        spec["podMetricsEndpoints"] = [{"port": port, "interval": _INTERVAL, "relabelings": relabel}]
    return {
        "pods": {
            "apiVersion": version,
            "kind": kind,
            "metadata": metadata("inferstack", environment.namespace, component_labels("monitoring")),
            "spec": spec,
        }
    }
