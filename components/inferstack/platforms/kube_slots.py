"""How a slot stands, read from what Kubernetes says about it. Pure: objects in, observation out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inferstack.promotion.platform import SlotObservation
from inferstack.promotion.spec import SlotSpec

SPEC_ANNOTATION = "inferstack.dev/spec"
GENERATION_ANNOTATION = "inferstack.dev/generation"
_FINAL = ("InvalidImageName", "ErrImageNeverPull", "CrashLoopBackOff", "RunContainerError")
"""Reasons of a waiting container that time alone does not mend."""
CRASHES = 2
"""Restarts from which a crash loop counts as one and not as a bad start."""
Object = dict[str, Any]


@dataclass(frozen=True)
class SlotObjects:
    """What was read of one slot. Lists hold one object per group of replicas."""

    deployments: Sequence[Object] = ()
    floors: Sequence[int] = ()
    """Fewest replicas that each scaler keeps."""
    pods: Sequence[Object] = ()
    endpoint_slices: Sequence[Object] = ()
    events: Sequence[Object] = ()
    logs: dict[str, str] = field(default_factory=dict)
    """Last lines of crashed containers, by pod."""


def observe_slot(objects: SlotObjects, base: SlotSpec | None = None, in_flight: int | None = None) -> SlotObservation:
    """The slot's state. `base`: the spec that the slot has when no promotion rendered it, checked by the caller."""
    if not objects.deployments:
        return SlotObservation(in_flight=0)
    current = [
        pod for pod in objects.pods if _generation(pod) == _rendered_generation(objects) and not pod["metadata"].get("deletionTimestamp")
    ]
    ready_pods = _ready_pods(objects.endpoint_slices)
    by_group = [
        sum(pod["metadata"]["name"] in ready_pods for pod in current if _belongs(pod, deployment)) for deployment in objects.deployments
    ]
    observed = all(
        deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        for deployment in objects.deployments
    )
    failure, waiting = _trouble(objects, current)
    return SlotObservation(
        replicas=min(int(deployment["spec"].get("replicas", 1)) for deployment in objects.deployments),
        ready=min(by_group) if observed else 0,
        spec=rendered_spec(objects.deployments) or base,
        floor=min(objects.floors, default=None),
        in_flight=0 if not objects.pods else in_flight,
        failure=failure,
        waiting=waiting if observed else "the controller has not seen the change yet",
        restarts=sum(status.get("restartCount", 0) for pod in current for status in pod.get("status", {}).get("containerStatuses", ())),
    )


def rendered_spec(deployments: Sequence[Object]) -> SlotSpec | None:
    """The spec that promotion wrote beside what it rendered; None when the workload is no longer of that promotion."""
    for deployment in deployments:
        annotations = deployment["metadata"].get("annotations", {})
        try:
            spec = SlotSpec.from_json(json.loads(annotations[SPEC_ANNOTATION]))
        except (KeyError, ValueError):
            return None
        template = deployment["spec"]["template"]
        images = [container.get("image") for container in template["spec"]["containers"]]
        if template["metadata"].get("annotations", {}).get(GENERATION_ANNOTATION) != str(spec.generation) or (
            spec.engine.image is not None and spec.engine.image not in images
        ):
            return None
    return spec


def _rendered_generation(objects: SlotObjects) -> Any:
    return objects.deployments[0]["spec"]["template"]["metadata"].get("annotations", {}).get(GENERATION_ANNOTATION)


def _generation(pod: Object) -> str | None:
    value: str | None = pod["metadata"].get("annotations", {}).get(GENERATION_ANNOTATION)
    return value


def _belongs(pod: Object, deployment: Object) -> bool:
    wanted = deployment["spec"]["selector"]["matchLabels"].items()
    return bool(wanted <= pod["metadata"].get("labels", {}).items())


def _ready_pods(slices: Sequence[Object]) -> set[str]:
    """Pods that the slices list as ready endpoints; a condition that is not set counts as ready, as the API says."""
    return {
        endpoint["targetRef"]["name"]
        for piece in slices
        for endpoint in piece.get("endpoints") or ()
        if endpoint.get("targetRef") and endpoint.get("conditions", {}).get("ready") is not False
    }


def _trouble(objects: SlotObjects, pods: Sequence[Object]) -> tuple[str | None, str | None]:
    """(why it cannot become ready, why it is not ready yet)."""
    for deployment in objects.deployments:
        for condition in deployment.get("status", {}).get("conditions") or ():
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                return f"pods cannot be made: {condition.get('message', condition.get('reason'))}", None
    waiting = None
    for pod in pods:
        final, reason = _pod_trouble(pod, objects.logs.get(pod["metadata"]["name"], ""))
        if final:
            return reason, None
        waiting = waiting or reason
    if waiting is None and not pods:
        warnings = [event for event in objects.events if event.get("type") == "Warning"]
        waiting = f"{warnings[-1].get('reason')}: {warnings[-1].get('message')}" if warnings else "no pod was made yet"
    return None, waiting


def _pod_trouble(pod: Object, log: str) -> tuple[bool, str | None]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return False, f"{name} cannot be placed: {condition.get('message', condition.get('reason'))}"
    for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        waiting = container.get("state", {}).get("waiting")
        if not waiting:
            continue
        reason = waiting.get("reason", "")
        text = f"{name}: {reason}" + (f": {waiting['message']}" if waiting.get("message") else "")
        if reason == "CrashLoopBackOff":
            last = container.get("lastState", {}).get("terminated", {})
            how = f"exit code {last.get('exitCode', '?')}" + (f", {last['reason']}" if last.get("reason") else "")
            shown = f"; last lines:\n{log}" if log else ""
            return container.get(
                "restartCount", 0
            ) >= CRASHES, f"{name} crashes again and again ({how}, {container['restartCount']} restarts){shown}"
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            message = waiting.get("message", "").lower()
            return any(word in message for word in ("not found", "manifest unknown", "denied", "unauthorized")), text
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return reason in _FINAL, text
    return False, None
