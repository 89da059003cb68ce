"""One scaling policy, rendered as an HorizontalPodAutoscaler, a KEDA ScaledObject, or a registration for this kit's autoscaler; pure.

Targets and defaults: queue 3 to 5 waiting requests per replica (Google's guide to autoscaling LLM inference on GKE), KV cache 0.8, quiet
time before shrinking 300 s. CPU and memory are for CPU tiers only: they do not measure the work of a GPU.
"""

from math import ceil
from typing import Any

from inferstack.cluster.monitoring_config import bundled_address
from inferstack.cluster.names import SLOT_LABEL, metadata, registration_name, slot_labels, slot_name
from inferstack.environment import Environment, SlotName
from inferstack.serving.manifests.distributed import distributed
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.groups import ReplicaGroup


def scaled(environment: Environment) -> bool:
    """Whether a scaler owns the number of replicas, so that the Deployment must not name one."""
    return environment.scaling.renderer != "none"


def scaler(environment: Environment, slot: SlotName, group: ReplicaGroup, *, floor: int) -> dict[str, Any] | None:
    """The scaler of one group; `floor` is the fewest replicas it starts with. None for `renderer: none`."""
    if environment.scaling.renderer == "hpa":
        return _hpa(environment, slot, group, floor)
    if environment.scaling.renderer == "keda":
        return _scaled_object(environment, slot, group, floor)
    if environment.scaling.renderer == "autoscaler":
        return _registration(environment, slot, group, floor)
    return None


def _hpa(environment: Environment, slot: SlotName, group: ReplicaGroup, floor: int) -> dict[str, Any]:
    name = slot_name(slot, group.name)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(name, environment.namespace, slot_labels(slot, group.name)),
        "spec": {
            "scaleTargetRef": _target(environment, group, name),
            "minReplicas": max(floor, 1),
            "maxReplicas": max(group.replicas.max, floor, 1),
            "metrics": _hpa_metrics(environment, group),
            "behavior": _behavior(environment),
        },
    }


def _target(environment: Environment, group: ReplicaGroup, name: str) -> dict[str, str]:
    if distributed(environment, group):
        return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": name}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}


def _registration(environment: Environment, slot: SlotName, group: ReplicaGroup, floor: int) -> dict[str, Any]:
    """What the autoscaler reads at every look; its API and promotions change it."""
    scaling = environment.scaling
    forecast = scaling.policy == "queue" and scaling.prediction_horizon_minutes > 0
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(registration_name(slot, group.name), environment.namespace, slot_labels(slot, group.name)),
        "data": {
            "scaling_policy": "queue_forecast" if forecast else scaling.policy,
            "min_instances": str(floor),
            "max_instances": str(max(group.replicas.max, floor, 1)),
        },
    }


def _hpa_metrics(environment: Environment, group: ReplicaGroup) -> list[dict[str, Any]]:
    scaling, names = environment.scaling, profile(environment.engine.kind).metrics
    if scaling.policy == "cpu" or names.waiting is None:
        return [_resource("cpu", scaling.cpu_percent), _resource("memory", scaling.memory_percent)]
    found = [_pods(names.waiting, scaling.queue_target)]
    if names.kv_ratio:
        found.append(_pods(names.kv_ratio, scaling.kv_target))
    if scaling.policy == "hybrid_smart":
        found += [_resource("cpu", scaling.cpu_percent), _resource("memory", scaling.memory_percent)]
    return found


def _resource(name: str, percent: int) -> dict[str, Any]:
    return {"type": "Resource", "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": percent}}}


def _pods(name: str, target: float) -> dict[str, Any]:
    """A metric of the pods themselves; colons are no part of a metric name in this interface, adapters write them as underscores."""
    value = f"{ceil(target * 1000)}m" if target != int(target) else str(int(target))
    return {
        "type": "Pods",
        "pods": {"metric": {"name": name.replace(":", "_")}, "target": {"type": "AverageValue", "averageValue": value}},
    }


def _behavior(environment: Environment) -> dict[str, Any]:
    scaling = environment.scaling
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": ceil(scaling.up_window_seconds),
            "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}, {"type": "Pods", "value": 1, "periodSeconds": 60}],
            "selectPolicy": "Max",
        },
        "scaleDown": {
            "stabilizationWindowSeconds": ceil(scaling.down_window_seconds),
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": max(15, ceil(environment.drain.grace_seconds))}],
        },
    }


def _scaled_object(environment: Environment, slot: SlotName, group: ReplicaGroup, floor: int) -> dict[str, Any]:
    """KEDA refuses a fallback where no trigger but CPU and memory has an average value (its admission webhook, CheckFallbackValid)."""
    name, triggers = slot_name(slot, group.name), _triggers(environment, slot, group)
    spec: dict[str, Any] = {
        "scaleTargetRef": _target(environment, group, name),
        "minReplicaCount": floor,
        "maxReplicaCount": max(group.replicas.max, floor, 1),
        "cooldownPeriod": ceil(environment.scaling.down_window_seconds),
        "advanced": {"horizontalPodAutoscalerConfig": {"name": name, "behavior": _behavior(environment)}},
        "triggers": triggers,
    }
    if any(trigger["metricType"] == "AverageValue" for trigger in triggers):
        spec["fallback"] = {"failureThreshold": 3, "replicas": max(floor, 1), "behavior": "currentReplicasIfHigher"}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(name, environment.namespace, slot_labels(slot, group.name)),
        "spec": spec,
    }


def _triggers(environment: Environment, slot: SlotName, group: ReplicaGroup) -> list[dict[str, Any]]:
    scaling, names, monitoring = environment.scaling, profile(environment.engine.kind).metrics, environment.monitoring
    address = monitoring.prometheus_url or (bundled_address(environment) if monitoring.backend == "bundled" else None)
    found: list[dict[str, Any]] = []
    if scaling.policy != "queue" or names.waiting is None or address is None:
        found = [
            {"type": kind, "metricType": "Utilization", "metadata": {"value": str(percent)}}
            for kind, percent in (("cpu", scaling.cpu_percent), ("memory", scaling.memory_percent))
        ]
    if scaling.policy == "cpu" or address is None:
        return found
    pods = f'namespace="{environment.namespace}",{_label(SLOT_LABEL)}="{slot}"'
    wanted = [(names.waiting, "sum", scaling.queue_target), (names.kv_ratio, "avg", scaling.kv_target)]
    return found + [_prometheus(address, f"{fold}({_series(metric, pods)})", fold, target) for metric, fold, target in wanted if metric]


def _label(key: str) -> str:
    """A pod label as the scrape configurations of this kit carry it over."""
    return key.partition("/")[2]


def _series(metric: str, matchers: str) -> str:
    return f'{{__name__="{metric}",{matchers}}}' if ":" in metric else f"{metric}{{{matchers}}}"


def _prometheus(address: str, query: str, fold: str, target: float) -> dict[str, Any]:
    """A query of the slot's own pods: a sum is divided by the replicas, an average is compared as it stands."""
    kind = "AverageValue" if fold == "sum" else "Value"
    return {
        "type": "prometheus",
        "metricType": kind,
        "metadata": {"serverAddress": address, "query": query, "threshold": f"{target:g}", "ignoreNullValues": "false"},
    }
