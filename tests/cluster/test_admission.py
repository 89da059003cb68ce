"""Every object of every environment is admitted by a real API server, and every pod by the Pod Security Standard `restricted`."""

import json
from pathlib import Path

import pytest
from harness import manifests
from machine import client
from machine.layout import Machine, project_root

pytestmark = pytest.mark.cluster
STACKS = project_root() / "stacks"
OF_CLOUDS = {"networking.gke.io", "monitoring.googleapis.com", "azmonitoring.coreos.com"}
ONLY_THERE = {"GCPBackendPolicy", "HealthCheckPolicy", "PodMonitoring", "ClusterPodMonitoring", "Rules", "PodMonitor", "ServiceMonitor"}
"""API groups, and their kinds, that only a cloud's own clusters have: no other server can say whether an object of theirs is right."""


def _environments() -> list[str]:
    names = [path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in sorted(STACKS.glob("Pulumi.*.yaml"))]
    return [name for name in names if "platform: local" not in (STACKS / f"Pulumi.{name}.yaml").read_text()]


@pytest.mark.parametrize("environment", _environments())
def test_every_object_of_an_environment_is_admitted(cluster: Machine, namespace: str, environment: str) -> None:
    planned = manifests.of_environment(project_root(), environment)
    own = [one for one in planned if one["kind"] == "Namespace"]
    moved = [one for one in manifests.into_namespace(planned, namespace) if one["apiVersion"].partition("/")[0] not in OF_CLOUDS]
    assert {one["kind"] for one in planned} - {one["kind"] for one in [*own, *moved]} <= ONLY_THERE
    holding_devices = [one for one in own if one["metadata"]["name"] in manifests.privileged(planned)]
    client.apply(cluster, holding_devices)  # what is in them is only admitted where they exist
    try:
        assert _dry_run(cluster, [*own, *moved]) == []
    finally:
        for one in holding_devices:
            client.kubectl(cluster, "delete", "namespace", one["metadata"]["name"], "--timeout=60s")


@pytest.mark.parametrize("environment", _environments())
def test_every_pod_of_an_environment_is_restricted(cluster: Machine, namespace: str, environment: str) -> None:
    planned = manifests.of_environment(project_root(), environment)
    pods = [pod for pod in manifests.pods_of(manifests.into_namespace(planned, namespace)) if pod["metadata"]["namespace"] == namespace]
    for pod in pods:  # neither its account nor its class exists in a dry run
        pod["spec"]["serviceAccountName"] = "default"
        pod["spec"].pop("priorityClassName", None)
    if pods:
        assert _dry_run(cluster, pods) == []


@pytest.mark.parametrize("environment", _environments())
def test_the_namespace_of_an_environment_enforces_it(environment: str) -> None:
    own = [one for one in manifests.of_environment(project_root(), environment) if one["kind"] == "Namespace"]
    held = [one["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") for one in own]
    assert all(one in ("restricted", "privileged") for one in held)
    assert not own or "restricted" in held


def test_a_pod_that_is_not_restricted_is_refused(cluster: Machine, namespace: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": namespace},
        "spec": {"containers": [{"name": "c", "image": "localhost/pause:1"}]},
    }
    with pytest.raises(RuntimeError, match='violates PodSecurity "restricted'):
        _dry_run(cluster, [pod])


def test_an_unknown_field_is_refused(cluster: Machine, namespace: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": namespace},
        "spec": {"ports": [{"port": 80}], "selectors": {"a": "b"}},
    }
    with pytest.raises(RuntimeError, match="selectors"):
        _dry_run(cluster, [service])


def _dry_run(cluster: Machine, objects: list[manifests.Manifest]) -> list[str]:
    """Server-side apply without effect and with strict fields; returns what the server warns of."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    done = client.kubectl(
        cluster, "apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-", given=listed
    )
    return [line for line in done.stderr.splitlines() if line.startswith("Warning")]


def test_every_environment_of_this_kit_is_among_them() -> None:
    assert {"kubernetes", "cluster"} <= set(_environments())
    assert all(Path(STACKS / f"Pulumi.{name}.yaml").exists() for name in _environments())
