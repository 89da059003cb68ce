"""A model that spans nodes: a LeaderWorkerSet of vLLM processes, one group of pods per replica; pure.

The leader serves the API and holds the first layers, each worker the next ones (pipeline parallel); inside a pod the layers are split over
its GPUs (tensor parallel). vLLM starts its processes itself (`--nnodes`, `--node-rank`, `--master-addr`), without Ray.
"""

import copy
from typing import Any

from inferstack.cluster.names import GPU_RESOURCE, component_labels, metadata, slot_labels, slot_name, worker_component
from inferstack.environment import Environment, SlotName
from inferstack.planning.placement import gpus_per_pod
from inferstack.serving.manifests.groups import ReplicaGroup


def distributed(environment: Environment, group: ReplicaGroup) -> bool:
    """Whether a replica of this group spans several pods."""
    return group.gpu is not None and environment.engine.pipeline_parallel > 1


def leader_worker_set(
    environment: Environment, slot: SlotName, group: ReplicaGroup, template: dict[str, Any], replicas: int | None
) -> dict[str, Any]:
    """The set for a slot's pod template; `replicas` None where a scaler owns their number.

    Workers carry another component label than the leader, so that the slot's Service and budget select leaders only.
    """
    nodes = environment.engine.pipeline_parallel
    leader, worker = copy.deepcopy(template), copy.deepcopy(template)
    worker["metadata"]["labels"] |= component_labels(worker_component(group.name))
    for pod, rank in ((leader, "0"), (worker, "$(LWS_WORKER_INDEX)")):
        container = pod["spec"]["containers"][0]
        container["args"] += ["--nnodes", str(nodes), "--node-rank", rank, "--master-addr", "$(LWS_LEADER_ADDRESS)"]
        container["args"] += ["--distributed-executor-backend", "mp", *([] if rank == "0" else ["--headless"])]
        for bound in container["resources"].values():
            bound[GPU_RESOURCE] = str(gpus_per_pod(environment))
    serving = worker["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe", "ports"):  # a worker has no API
        serving.pop(probe)
    spec: dict[str, Any] = {
        "leaderWorkerTemplate": {
            "size": nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": leader,
            "workerTemplate": worker,
        },
        "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1}},
        "startupPolicy": "LeaderCreated",
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata(slot_name(slot, group.name), environment.namespace, slot_labels(slot, group.name)),
        "spec": spec,
    }
