"""How a slot gets its desired state on a cluster: applied directly, or by an update of the slot's own Pulumi stack."""

import json
from pathlib import Path
from typing import Any, Protocol

from inferstack.environment import BASE_KEY, CONFIG_KEY, SLOT_KEY, Environment, SlotName
from inferstack.platforms.kube_api import Object
from inferstack.platforms.kube_slots import SPEC_ANNOTATION
from inferstack.promotion.platform import SlotFailed, Unavailable
from inferstack.promotion.spec import SlotSpec, with_spec
from inferstack.serving.manifests.slot import slot_objects

PLURALS = {
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "Service": "services",
    "NetworkPolicy": "networkpolicies",
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "ScaledObject": "scaledobjects",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "HTTPRoute": "httproutes",
}


class Writes(Protocol):
    """Writes that only the holder of the lease can make."""

    def apply(self, path: str, body: Object) -> Object: ...
    def merge(self, path: str, change: Object) -> Object: ...


class Renderer(Protocol):
    """Makes a slot what a spec says; idempotent."""

    def render(self, slot: SlotName, spec: SlotSpec, writes: Writes) -> None: ...


class ApplyRenderer:
    """Server-side apply of the slot's manifests: where a GitOps controller or no Pulumi at all runs the cluster."""

    def __init__(self, name: str, environment: Environment) -> None:
        self._name, self._environment = name, environment

    def render(self, slot: SlotName, spec: SlotSpec, writes: Writes) -> None:
        """The workload last: what names the spec that it was rendered from says that everything else is there."""
        for manifest in sorted(manifests(self._name, self._environment, slot, spec), key=lambda one: one["kind"] == "Deployment"):
            writes.apply(object_path(manifest), manifest)


def manifests(name: str, environment: Environment, slot: SlotName, spec: SlotSpec) -> list[Object]:
    """The objects of a slot for `spec`, the workload with the spec beside it."""
    wanted = with_spec(environment, spec)
    found: list[Object] = []
    for group in slot_objects(wanted, slot, name=name, generation=spec.generation, floor=spec.replicas):
        for manifest in group.all():
            if manifest["kind"] == "Deployment":
                annotations = {**manifest["metadata"].get("annotations", {}), SPEC_ANNOTATION: json.dumps(spec.to_json(), sort_keys=True)}
                manifest = {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
            found.append(manifest)
    return found


def object_path(manifest: Object) -> str:
    """Where the API server keeps an object."""
    group = manifest["apiVersion"]
    base = "/api/v1" if group == "v1" else f"/apis/{group}"
    return f"{base}/namespaces/{manifest['metadata']['namespace']}/{PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"


class PulumiRenderer:
    """`pulumi up` of the slot's stack by the Automation API, and the spec written beside the workload that came of it."""

    def __init__(self, root: Path, name: str, environment: Environment) -> None:
        self._root, self._name, self._environment = root, name, environment

    def render(self, slot: SlotName, spec: SlotSpec, writes: Writes) -> None:
        from pulumi import automation

        stack_name = f"{self._name}-{slot}"
        try:
            stack = automation.create_or_select_stack(stack_name=stack_name, work_dir=str(self._root))
            for key, value in slot_settings(self._name, slot, spec).items():
                text = value if isinstance(value, str) else json.dumps(value)
                stack.set_config(key, automation.ConfigValue(text))
            stack.up(on_output=lambda _: None)
        except automation.ConcurrentUpdateError as error:
            raise Unavailable(
                f"stack {stack_name} is locked: {_reason(error)}; `pulumi cancel` frees a lock that a killed update left"
            ) from None
        except automation.CommandError as error:
            raise SlotFailed(f"pulumi up of {stack_name}: {_reason(error)}") from None
        for manifest in manifests(self._name, self._environment, slot, spec):
            if manifest["kind"] == "Deployment":
                note = {"metadata": {"annotations": {SPEC_ANNOTATION: manifest["metadata"]["annotations"][SPEC_ANNOTATION]}}}
                writes.merge(object_path(manifest), note)


def slot_settings(name: str, slot: SlotName, spec: SlotSpec) -> dict[str, Any]:
    """Configuration of the slot's stack: where it belongs, and what the promotion lays over the environment."""
    overlay = {
        "models": [model.model_dump(mode="json") for model in spec.models],
        "engine": spec.engine.model_dump(mode="json"),
        "slots": {"resources": spec.resources.model_dump(mode="json")},
        "generation": spec.generation,
    }
    return {BASE_KEY: name, CONFIG_KEY: {"layer": "slot", "slot": str(slot)}, SLOT_KEY: overlay}


def _reason(error: Exception) -> str:
    """The engine's own lines; a failing run may print a traceback after them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip().startswith("error:")]
    return " ".join(lines[:3]) or str(error).strip()[:500]
