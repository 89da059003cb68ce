"""Pods that no other rule sees: in objects of unknown kinds, or in a form that is none of a pod's."""

from collections.abc import Iterator, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.shapes import CONTAINERS, pod_templates

_OF_CONTAINERS = frozenset({"name", "command", "args", "env", "envFrom", "ports", "resources", "securityContext", "volumeMounts"})


def unseen(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    for resource in resources:
        if not resource.is_kubernetes:
            continue
        judged = set()
        for where, template in pod_templates(resource):
            spec = dict(template).get("spec")
            known = dict(spec) if isinstance(spec, dict) else {}
            for key in CONTAINERS:
                place = f"{where}.spec.{key}".removeprefix(".")
                judged.add(place)
                if not _is_listed(known.get(key)):
                    yield Finding(resource, place, "it is no list of containers: no rule judged them.")
        for where in _containers_within({key: value for key, value in resource.props.items() if key not in ("metadata", "status")}):
            if where.rpartition("[")[0] not in judged:
                yield Finding(resource, where, f"no rule knows a {resource.kind}'s containers at this place: none judged it.")


def _is_listed(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in list.__iter__(value)))


def _containers_within(value: Any, where: str = "") -> Iterator[str]:
    """Places of what looks like a container; what is not known yet (the methods of its guard are passed by) holds none."""
    if isinstance(value, dict):
        listed = where.rpartition("[")[0].rpartition(".")[2] in CONTAINERS
        if isinstance(dict.get(value, "image"), str) and (listed or _OF_CONTAINERS & value.keys()):
            yield where
        for key, item in dict.items(value):
            yield from _containers_within(item, f"{where}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for i, item in enumerate(list.__iter__(value)):
            yield from _containers_within(item, f"{where}[{i}]")


RULES = (
    Rule(
        "workload-unknown",
        "error",
        "What a rule does not recognize as a pod, it lets through.",
        "Use a Deployment, StatefulSet, DaemonSet, Job, CronJob, LeaderWorkerSet or Pod, or waive this once somebody has looked.",
        check_stack=unseen,
    ),
)
