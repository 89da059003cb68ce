"""Pods that no other rule sees: in objects of unknown kinds, or in a form that is none of a pod's."""

from collections.abc import Iterator, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.shapes import WORKLOADS, pod_templates


def unseen(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    for resource in resources:
        if not resource.is_kubernetes:
            continue
        if resource.kind not in WORKLOADS:
            for where in _pods_within(resource.props):
                yield Finding(resource, where, f"no rule knows the pods of the kind {resource.kind}: none judged them.")
            continue
        for where, template in pod_templates(resource):
            spec = dict(template).get("spec")
            known = dict(spec) if isinstance(spec, dict) else {}
            for key in ("containers", "initContainers", "ephemeralContainers"):
                if not _is_listed(known.get(key)):
                    yield Finding(resource, f"{where}.spec.{key}".removeprefix("."), "it is no list of containers: no rule judged them.")


def _is_listed(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in list.__iter__(value)))


def _pods_within(value: Any, where: str = "") -> Iterator[str]:
    """Places of lists of containers; what is not known yet (the methods of its guard are passed by) holds none."""
    if isinstance(value, dict):
        for key, item in dict.items(value):
            place = f"{where}.{key}".removeprefix(".")
            if (
                key == "containers"
                and isinstance(item, list)
                and any(isinstance(one, dict) and "image" in one for one in list.__iter__(item))
            ):
                yield place
            yield from _pods_within(item, place)
    elif isinstance(value, list):
        for i, item in enumerate(list.__iter__(value)):
            yield from _pods_within(item, f"{where}[{i}]")


RULES = (
    Rule(
        "workload-unknown",
        "error",
        "What a rule does not recognize as a pod, it lets through.",
        "Use a Deployment, StatefulSet, DaemonSet, Job, CronJob, LeaderWorkerSet or Pod, or waive this once somebody has looked.",
        check_stack=unseen,
    ),
)
