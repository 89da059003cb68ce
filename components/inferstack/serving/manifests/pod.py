"""The pod of a slot: probes that let a large model load, drain, a restricted security context, GPU placement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from inferstack.cluster.names import ACCELERATOR_LABEL, GPU_RESOURCE, GPU_TAINT, slot_labels, slot_name
from inferstack.cluster.security import container_security, pod_security
from inferstack.environment import METRICS_PORT, Environment, SlotName
from inferstack.planning import fit
from inferstack.planning.arguments import memory_shares
from inferstack.serving.manifests.config import CACHE_SECRET_PATH, KEYS_PATH, cache_secret, digest, runtime_config, text
from inferstack.serving.manifests.engines import CACHE_PATH, KEY_ENTRY, WEIGHTS_PATH, bucket, profile
from inferstack.serving.manifests.groups import ReplicaGroup

PROBE_SECONDS = 5
# A loading slot is asked more often: the time it took to load is rounded up to this. Not each second: the kubelet reports a pod's failed
# probes and its other events from one allowance (25 at once, then one in five minutes).
START_PROBE_SECONDS = 2
_HUB_PATH = "/etc/inferstack/hub"
"""Folder of the token that Hugging Face's library reads, by HF_TOKEN_PATH (huggingface_hub docs, environment variables)."""


@dataclass(frozen=True)
class Placement:
    """What a cloud adds to the pods of a slot."""

    pod_labels: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    service_account_annotations: Mapping[str, Any] = field(default_factory=dict)
    weights_volume: Mapping[str, Any] | None = None
    """Volume source that holds the models of object storage, mounted read-only; values may be Pulumi outputs."""
    tolerations: tuple[Mapping[str, str], ...] = ()


def pod_template(
    environment: Environment, slot: SlotName, group: ReplicaGroup, placement: Placement, *, name: str, generation: int
) -> dict[str, Any]:
    """The pod template of one group of replicas."""
    engine = profile(environment.engine.kind)
    annotations = {**placement.pod_annotations, "inferstack.dev/generation": str(generation)}
    if engine.own_identity:
        annotations["inferstack.dev/config"] = digest(text(runtime_config(environment, slot, group, name=name, generation=generation)))
    labels = slot_labels(slot, group.name)
    spec: dict[str, Any] = {
        "serviceAccountName": slot_name(slot, group.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ceil(environment.drain.grace_seconds),
        "securityContext": pod_security(fsGroupChangePolicy="OnRootMismatch"),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        "containers": [container(environment, slot, group, placement)],
        "volumes": _volumes(environment, slot, group, placement),
    }
    if environment.engine.pull_secret:
        spec["imagePullSecrets"] = [{"name": environment.engine.pull_secret}]
    tolerations = [dict(item) for item in placement.tolerations]
    if group.gpu:
        spec["nodeSelector"] = {ACCELERATOR_LABEL: group.gpu.accelerator}
        tolerations.append({"key": GPU_TAINT, "operator": "Exists", "effect": "NoSchedule"})
    if tolerations:
        spec["tolerations"] = tolerations
    if environment.production:
        spec["priorityClassName"] = f"inferstack-{environment.namespace}-serving"
    return {"metadata": {"labels": {**placement.pod_labels, **labels}, "annotations": annotations}, "spec": spec}


def container(environment: Environment, slot: SlotName, group: ReplicaGroup, placement: Placement) -> dict[str, Any]:
    """The engine's container."""
    settings, engine = environment.engine, profile(environment.engine.kind)
    ports = [{"name": "http", "containerPort": settings.port}]
    if engine.own_metrics_port:
        ports.append({"name": "metrics", "containerPort": METRICS_PORT})
    found: dict[str, Any] = {
        "name": "runtime",
        "image": settings.image,
        "args": [*engine.arguments(settings, group.models[0]), *_share(environment, group), *settings.arguments],
        "env": [
            {"name": "HOME", "value": CACHE_PATH},
            {"name": "HF_HOME", "value": f"{CACHE_PATH}/huggingface"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *([] if engine.own_identity else _user()),
            *([{"name": "HF_TOKEN_PATH", "value": f"{_HUB_PATH}/token"}] if settings.hub_secret else []),
        ],
        "ports": ports,
        "startupProbe": {
            "httpGet": {"path": engine.ready_path, "port": "http"},
            "periodSeconds": START_PROBE_SECONDS,
            "timeoutSeconds": 3,
            "failureThreshold": max(1, ceil(environment.promotion.ready_seconds / START_PROBE_SECONDS)),
        },
        "readinessProbe": {
            "httpGet": {"path": engine.ready_path, "port": "http"},
            "periodSeconds": PROBE_SECONDS,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            **({"httpGet": {"path": engine.live_path, "port": "http"}} if engine.live_path else {"tcpSocket": {"port": "http"}}),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "resources": resources(group),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(environment, group, placement),
    }
    if seconds := pre_stop_seconds(environment):  # Kubernetes before 1.33 refuses to sleep for no time
        found["lifecycle"] = {"preStop": {"sleep": {"seconds": seconds}}}
    if engine.command:
        found["command"] = list(engine.command)
    return found


def _share(environment: Environment, group: ReplicaGroup) -> list[str]:
    """vLLM's part of a GPU that several pods share, of which it would take nine tenths; what the environment says itself holds."""
    settings, clients = environment.engine, group.gpu.sharing if group.gpu else 0
    if settings.kind != "vllm" or clients < 2 or any(memory_shares(settings.arguments)):
        return []
    return ["--gpu-memory-utilization", f"{fit.usual_utilization() / clients:.3f}"]


def _user() -> list[dict[str, str]]:
    """What an engine image needs to run as a user that it has no entry for.

    PyTorch looks the user up by name as it is imported (getpass.getuser, for the path of its compiler's cache) and ends without one
    (github.com/vllm-project/vllm/issues/44548); that cache belongs on the large volume, not in /tmp.
    """
    return [{"name": "USER", "value": "inferstack"}, {"name": "TORCHINDUCTOR_CACHE_DIR", "value": f"{CACHE_PATH}/torchinductor"}]


def pre_stop_seconds(environment: Environment) -> int:
    """Seconds that a leaving pod goes on serving before SIGTERM.

    An engine that stops at SIGTERM instead of draining gets the drain time here, so that its running streams can end.
    """
    drain = environment.drain
    return ceil(drain.pre_stop_seconds + (0 if profile(environment.engine.kind).drains else drain.seconds))


def resources(group: ReplicaGroup) -> dict[str, dict[str, str]]:
    """Requests and limits; memory, storage and GPUs are limited to what is requested, the CPU only where a limit is set."""
    wanted = group.resources
    requests = {"cpu": wanted.cpu, "memory": wanted.memory, "ephemeral-storage": wanted.ephemeral_storage}
    limits = {"memory": wanted.memory, "ephemeral-storage": wanted.ephemeral_storage}
    if wanted.cpu_limit:
        limits["cpu"] = wanted.cpu_limit
    if group.gpu:
        requests[GPU_RESOURCE] = limits[GPU_RESOURCE] = str(group.gpu.count)
    return {"requests": requests, "limits": limits}


def _shared_memory(environment: Environment) -> bool:
    return environment.engine.tensor_parallel * environment.engine.pipeline_parallel > 1


def _needs_weights(group: ReplicaGroup, placement: Placement) -> bool:
    return placement.weights_volume is not None and any(bucket(model) for model in group.models)


def _mounts(environment: Environment, group: ReplicaGroup, placement: Placement) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "cache", "mountPath": CACHE_PATH}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the container
    if profile(environment.engine.kind).own_identity:
        found.append({"name": "config", "mountPath": "/etc/inferstack/config", "readOnly": True})
        found.append({"name": "keys", "mountPath": KEYS_PATH, "readOnly": True})
        if cache_secret(environment):
            found.append({"name": "cache-url", "mountPath": CACHE_SECRET_PATH, "readOnly": True})
    elif profile(environment.engine.kind).checks_key:
        found.append({"name": "keys", "mountPath": KEYS_PATH, "readOnly": True})
    if environment.engine.hub_secret:
        found.append({"name": "hub", "mountPath": _HUB_PATH, "readOnly": True})
    if _needs_weights(group, placement):
        found.append({"name": "weights", "mountPath": WEIGHTS_PATH, "readOnly": True})
    if _shared_memory(environment):
        found.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - in the container
    return found


def _volumes(environment: Environment, slot: SlotName, group: ReplicaGroup, placement: Placement) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "cache", "emptyDir": {"sizeLimit": group.resources.ephemeral_storage}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
    ]
    if profile(environment.engine.kind).own_identity:
        found.append({"name": "config", "configMap": {"name": slot_name(slot, group.name)}})
        found.append({"name": "keys", "secret": {"secretName": environment.access.keys_secret}})
        if secret := cache_secret(environment):
            found.append({"name": "cache-url", "secret": {"secretName": secret}})
    elif profile(environment.engine.kind).checks_key:
        item = {"key": KEY_ENTRY, "path": KEY_ENTRY}
        found.append({"name": "keys", "secret": {"secretName": environment.access.keys_secret, "items": [item]}})
    if secret := environment.engine.hub_secret:
        found.append({"name": "hub", "secret": {"secretName": secret, "items": [{"key": "token", "path": "token"}]}})
    if _needs_weights(group, placement):
        found.append({"name": "weights", **(placement.weights_volume or {})})
    if _shared_memory(environment):
        found.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return found
