"""Requests survive: probes, budgets, spread, one owner of replicas, the timeout chain."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.shapes import (
    SERVED,
    SLOT_LABEL,
    at,
    containers,
    is_device_plugin,
    labels_of_pods,
    mapping,
    number,
    pod_specs,
    seconds,
    selects,
    sequence,
)

_STANDING = SERVED | {"DaemonSet", "ReplicaSet", "ReplicationController", "Pod"}
_SCALERS = frozenset({"HorizontalPodAutoscaler", "ScaledObject"})
SHORTEST_START = 300
"""Seconds that a slot's start-up probe must allow: weights are loaded before the first answer."""


def _probe(container: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return mapping(container.get(name))


def _action(probe: Mapping[str, Any]) -> Any:
    return [probe.get(key) for key in ("httpGet", "tcpSocket", "exec", "grpc")]


def probes(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    """But for workers of a group, which live and die with their leader, and for pods that end by themselves."""
    for where, container, spec in containers(r, init=False) if not is_device_plugin(r) else ():
        ends = ".workerTemplate." in where or spec.get("restartPolicy") in ("Never", "OnFailure")
        for name in ("readinessProbe", "livenessProbe") if not ends else ():
            if not _probe(container, name):
                yield f"{where}.{name}", f"without a {name.removesuffix('Probe')} probe nobody sees that the container is stuck."


def probes_differ(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r, init=False):
        ready, live = _probe(container, "readinessProbe"), _probe(container, "livenessProbe")
        if ready and live and _action(ready) == _action(live):
            yield f"{where}.livenessProbe", "both probes ask the same: a pod that is busy or draining is killed in place of being spared."


def start(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if SLOT_LABEL not in labels_of_pods(r):
        return
    for where, container, _spec in containers(r, init=False):
        probe = _probe(container, "startupProbe")
        if not probe and not _probe(container, "livenessProbe"):
            continue
        allowed = (number(probe.get("failureThreshold")) or 3) * (number(probe.get("periodSeconds")) or 10) if probe else 0
        if allowed < SHORTEST_START:
            yield (
                f"{where}.startupProbe",
                f"the container gets {allowed:.0f} s to load its weights before liveness kills it; {SHORTEST_START} s are needed.",
            )


def disruption_budget(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    budgets = [r for r in resources if r.kind == "PodDisruptionBudget" and r.is_kubernetes]
    for workload in (r for r in resources if r.kind in SERVED and r.is_kubernetes):
        labels = labels_of_pods(workload)
        own = [b for b in budgets if b.namespace == workload.namespace and selects(at(b.props, "spec", "selector"), labels)]
        if not own:
            yield Finding(workload, "", "no PodDisruptionBudget holds a node's drain back.")


def blocking_budget(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    for budget in (r for r in resources if r.kind == "PodDisruptionBudget" and r.is_kubernetes):
        unavailable, available = at(budget.props, "spec", "maxUnavailable"), at(budget.props, "spec", "minAvailable")
        held = [
            _least(workload, resources)
            for workload in resources
            if workload.kind in SERVED
            and workload.namespace == budget.namespace
            and selects(at(budget.props, "spec", "selector"), labels_of_pods(workload))
        ]
        share = float(str(available)[:-1]) if re.fullmatch(r"[0-9]{1,4}%", str(available)) else None
        needed = number(available) if share is None else math.ceil(share / 100 * sum(held))
        never = unavailable is None if available is None else share is not None and share >= 100
        if never or str(unavailable) in ("0", "0%") or (needed is not None and held and needed >= sum(held)):
            yield Finding(budget, "spec", "no pod may ever leave: nodes cannot be drained or upgraded.")


def _least(workload: Resource, resources: Sequence[Resource]) -> float:
    """Replicas that a workload has without load: its scaler's least, else its own number."""
    for scaler in (r for r in resources if r.kind in _SCALERS):
        if _owns(scaler, workload):
            return _low(scaler)
    replicas = number(at(workload.props, "spec", "replicas"))
    return 1 if replicas is None else replicas


def spread(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    replicas = number(at(r.props, "spec", "replicas"))
    if replicas == 1 or (replicas is None and r.kind == "StatefulSet"):
        return
    for where, spec in pod_specs(r):
        if not sequence(spec.get("topologySpreadConstraints")) and at(spec, "affinity", "podAntiAffinity") is None:
            yield f"{where}.topologySpreadConstraints", "all replicas may stand in one zone, on one node."


def one_owner(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    for scaler in (r for r in resources if r.kind in _SCALERS):
        for workload in resources:
            if _owns(scaler, workload) and at(workload.props, "spec", "replicas") is not None:
                message = f"replicas are set, and {scaler.kind}/{scaler.object_name} sets them too: each update throws the scaler's back."
                yield Finding(workload, "spec.replicas", message)


def _owns(scaler: Resource, workload: Resource) -> bool:
    target = mapping(at(scaler.props, "spec", "scaleTargetRef"))
    same = workload.kind == target.get("kind", "Deployment") and workload.namespace == scaler.namespace
    return same and workload.object_name == target.get("name")


def _low(scaler: Resource) -> float:
    """The least replicas that a scaler leaves; what it does not say is the default of its kind."""
    if scaler.kind == "HorizontalPodAutoscaler":
        found = number(at(scaler.props, "spec", "minReplicas"))
        return 1 if found is None else found
    idle = number(at(scaler.props, "spec", "idleReplicaCount"))
    return (number(at(scaler.props, "spec", "minReplicaCount")) or 0) if idle is None else idle


def scaler_bounds(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    low = _low(r)
    high = number(at(r.props, "spec", "maxReplicas" if r.kind == "HorizontalPodAutoscaler" else "maxReplicaCount"))
    if high is None:
        yield "spec", "the scaler has no upper bound: load decides what is spent."
    if context.production and low < 1:
        yield "spec", "production may go to zero replicas: the first request waits for a node and the weights."
    if high is not None and low > high:
        yield "spec", f"the least, {low:.0f}, is above the most, {high:.0f}."


def timeout_chain(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    for where, spec in pod_specs(r):
        grace = number(spec.get("terminationGracePeriodSeconds"))
        grace = 30.0 if grace is None else grace
        path = f"{where}.terminationGracePeriodSeconds"
        if grace > context.autoscaler_grace_seconds:
            yield path, f"grace of {grace:.0f} s is longer than the {context.autoscaler_grace_seconds:.0f} s that the autoscaler waits."
        for i, container in enumerate(sequence(spec.get("containers"))):
            pause = _pause(at(container, "lifecycle", "preStop"))
            if pause >= grace:
                yield path, f"preStop of container {i} takes {pause:.0f} s of {grace:.0f}: the process is killed before it can drain."


def _pause(hook: Any) -> float:
    """Seconds that a preStop hook waits, natively or by a `sleep`."""
    words = " ".join(str(word) for word in sequence(at(hook, "exec", "command")))
    slept = [float(found) for found in re.findall(r"\bsleep\s+([0-9]{1,6}(?:\.[0-9]{1,6})?)", words)]
    return (number(at(hook, "sleep", "seconds")) or 0) + sum(slept)


def pre_stop(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if SLOT_LABEL not in labels_of_pods(r):
        return
    for where, container, _spec in containers(r, init=False):
        if sequence(container.get("ports")) and at(container, "lifecycle", "preStop") is None:
            yield f"{where}.lifecycle.preStop", "SIGTERM and the removal of the endpoint race: new requests reach a process that ends."


def route_timeout(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for i, rule in enumerate(sequence(at(r.props, "spec", "rules"))):
        request = seconds(at(rule, "timeouts", "request"))
        if request is None and sequence(mapping(rule).get("backendRefs")):
            yield f"spec.rules[{i}].timeouts.request", "the gateway's default (15 to 60 s) cuts long answers."
        backend = seconds(at(rule, "timeouts", "backendRequest"))
        if request is not None and backend is not None and backend > request > 0:
            yield (
                f"spec.rules[{i}].timeouts.backendRequest",
                f"the backend gets {backend:.0f} s of a request that ends after {request:.0f} s.",
            )


RULES = (
    Rule(
        "probes",
        "error",
        "Endpoints and restarts follow probes.",
        "Set readinessProbe (/readyz) and livenessProbe (/livez).",
        ("CKV_K8S_8", "CKV_K8S_9", "kube-score:pod-probes"),
        _STANDING,
        probes,
    ),
    Rule(
        "probes-differ",
        "error",
        "Ready and alive are different questions.",
        "Ask /readyz for readiness and /livez for liveness.",
        ("kube-score:pod-probes-identical",),
        _STANDING,
        probes_differ,
    ),
    Rule(
        "probe-startup",
        "error",
        "Liveness must not judge a pod that still loads.",
        f"Set a startupProbe that allows {SHORTEST_START} s or more.",
        (),
        SERVED,
        start,
    ),
    Rule(
        "disruption-budget",
        "error",
        "A drained node must not take all replicas at once.",
        "Add a PodDisruptionBudget for its labels.",
        ("kube-score:deployment-has-poddisruptionbudget", "kube-score:statefulset-has-poddisruptionbudget"),
        check_stack=disruption_budget,
    ),
    Rule(
        "disruption-budget-blocks",
        "error",
        "Nodes must be replaceable.",
        "Allow one pod to leave: maxUnavailable: 1.",
        ("kube-score:poddisruptionbudget-has-policy",),
        check_stack=blocking_budget,
    ),
    Rule(
        "spread",
        "error",
        "A zone or a node fails as a whole.",
        "Add topologySpreadConstraints over zones.",
        ("kube-score:deployment-has-host-podantiaffinity", "kube-score:pod-topology-spread-constraints"),
        frozenset({"Deployment", "StatefulSet"}),
        spread,
    ),
    Rule(
        "replicas-one-owner",
        "error",
        "Two owners of one number undo each other.",
        "Leave spec.replicas out where a scaler owns it.",
        ("kube-score:deployment-targeted-by-hpa-does-not-have-replicas-configured",),
        check_stack=one_owner,
    ),
    Rule(
        "scaler-bounds",
        "error",
        "A scaler spends money and must not spend the last replica.",
        "Set the least to 1 (2 in production) and the most.",
        ("kube-score:horizontalpodautoscaler-replicas",),
        _SCALERS,
        scaler_bounds,
    ),
    Rule(
        "timeout-chain",
        "error",
        "Each layer must wait for the one below it.",
        "Keep preStop + drain below grace, and grace within 600 s.",
        (),
        SERVED,
        timeout_chain,
    ),
    Rule("pre-stop", "error", "A leaving pod must go on until every gateway knows.", "Set lifecycle.preStop.sleep.", (), SERVED, pre_stop),
    Rule(
        "route-timeout",
        "error",
        "An answer of many tokens takes minutes.",
        "Set timeouts.request to the longest answer, backendRequest no longer.",
        (),
        frozenset({"HTTPRoute"}),
        route_timeout,
    ),
)
