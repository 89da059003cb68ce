"""Broken in every way that a real cluster breaks: the live slot goes on serving, and the cluster says what is wrong."""

import json
import os
import signal
import time

import pytest
from harness import commands
from harness.load import Load
from harness.slots import NAMESPACE, Deployed
from machine import client, processes
from machine.layout import NODE

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

GATEWAY_HEARS_S = 2.0
"""From an EndpointSlice written to the gateway using it; weights took 0.2 s at most on an idle machine (docs/cluster-report.md)."""


@pytest.mark.parametrize("program", ["kube-apiserver", "etcd", "kubelet", "kube-controller-manager", "containerd"])
def test_the_live_slot_serves_on_when_a_program_of_the_cluster_is_killed(fresh: Deployed, program: str) -> None:
    folder = fresh.machine.folder
    with Load(fresh.url) as load:
        load.wait_for(5)
        processes.end(processes.named(folder, program))
        load.wait_for(10)
        processes.again(folder, program)
        client.wait("API server", 60, lambda: client.ready(fresh.machine))
        load.wait_for(5)
    assert load.lost == []
    fresh.wait_ready("blue", seconds=60)


def test_a_killed_process_of_the_idle_slot_starts_again_and_no_request_is_lost(fresh: Deployed) -> None:
    pod = fresh.pods("green")[0]["metadata"]["name"]
    with Load(fresh.url) as load:
        load.wait_for(5)
        _kill_runtime(fresh, pod)
        client.wait("a restart", 60, lambda: fresh.pods("green")[0]["status"]["containerStatuses"][0]["restartCount"] == 1)
        fresh.wait_ready("green")
        load.wait_for(5)
    assert load.lost == []
    assert fresh.pods("green")[0]["metadata"]["name"] == pod


def test_when_one_of_two_replicas_is_killed_the_other_serves_on(fresh: Deployed) -> None:
    """What a crash costs is the requests that the process had, and those that the gateway sends it before it has heard."""
    fresh.fix_replicas("blue", 2)
    with Load(fresh.url, clients=2) as load:
        load.wait_for(10)
        _kill_runtime(fresh, fresh.pods("blue")[0]["metadata"]["name"])
        client.wait("one ready endpoint", 60, lambda: len(fresh.ready_addresses("blue")) == 1)
        heard = time.time() + GATEWAY_HEARS_S
        load.wait_for(10)
        fresh.wait_ready("blue", 2)
        load.wait_for(10)
    assert [one for one in load.lost if one.sent > heard] == []
    assert {one.slot for one in load.answers if not one.failure} == {"blue"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            {"image": "localhost/there-is-no-such-image:1"}, ["localhost/there-is-no-such-image:1"], id="an image that cannot be pulled"
        ),
        pytest.param(
            {"command": ["python3", "-c", "raise SystemExit('no such weights')"], "args": []},
            ["crashes again and again", "exit code 1", "no such weights"],
            id="a process that ends at once",
        ),
        pytest.param({"resources": {"limits": {"nvidia.com/gpu": "1"}}}, ["cannot be placed", "Insufficient nvidia.com/gpu"], id="a GPU"),
        pytest.param(
            {"args": ["serve", "--config", "/nowhere.json"]},
            ["crashes again and again", "exit code 2", "/nowhere.json"],
            id="a configuration that is not there",
        ),
    ],
)
def test_an_idle_slot_that_cannot_become_ready_says_why_and_takes_nothing_from_the_live_one(
    fresh: Deployed, change: dict[str, object], said: list[str]
) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "runtime", **change}]}}}}
    with Load(fresh.url) as load:
        load.wait_for(5)
        fresh.kubectl("patch", "deployment", "inferstack-green", "--type=strategic", f"--patch={json.dumps(patch)}")
        client.wait(f"`inferstack status` to say {said}", 120, lambda: all(word in _reason(fresh, "green") for word in said), every=1)
        load.wait_for(5)
    assert load.lost == []
    assert set(load.by_slot) == {"blue"}
    assert len(fresh.ready_addresses("green")) == 1, "the old replica stays until a new one is ready"


def test_a_pod_that_fills_its_disk_is_replaced_and_the_live_slot_serves_on(fresh: Deployed) -> None:
    pod = fresh.pods("green")[0]["metadata"]["name"]
    with Load(fresh.url) as load:
        load.wait_for(5)
        fill = "import os; f = open('/tmp/fill', 'wb'); [f.write(bytes(1 << 20)) for _ in range(300)]; f.flush()"  # its limit is 256 MiB
        fresh.kubectl("exec", pod, "--", "python3", "-c", fill, check=False)  # it may be ended with the pod
        client.wait("eviction", 120, lambda: "Evicted" in _events(fresh, pod))
        client.wait("another pod", 120, lambda: {one["metadata"]["name"] for one in fresh.pods("green")} - {pod} != set())
        client.wait("its readiness", 120, lambda: len(fresh.ready_addresses("green")) == 1)
        load.wait_for(5)
    assert load.lost == []
    assert pod not in {one["metadata"]["name"] for one in fresh.pods("green")}


def test_a_drained_node_keeps_the_last_replica_of_the_live_slot(fresh: Deployed) -> None:
    """With one node an evicted replica has nowhere to go, so the budget must hold the last one."""
    fresh.fix_replicas("blue", 2)
    budget = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/inferstack-blue"
    client.wait("budget of one", 60, lambda: client.read(fresh.machine, budget)["status"]["disruptionsAllowed"] == 1)
    drain = ["drain", NODE, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=40s", "--pod-selector=inferstack.dev/slot=blue"]
    with Load(fresh.url) as load:
        load.wait_for(5)
        try:
            drained = client.kubectl(fresh.machine, *drain, check=False)
            load.wait_for(5)
            said = _reason(fresh, "blue")
        finally:
            client.kubectl(fresh.machine, "uncordon", NODE)
        fresh.wait_ready("blue", 2)
    assert drained.returncode != 0
    assert "disruption budget" in drained.stderr
    assert "cannot be placed" in said
    assert "unschedulable" in said
    assert load.lost == []
    assert set(load.by_slot) == {"blue"}


def test_replicas_beyond_the_quota_are_refused_and_said_and_those_that_run_go_on(fresh: Deployed) -> None:
    for slot in ("blue", "green"):
        fresh.fix_replicas(slot, 1)  # their scalers must not make room meanwhile, nor have asked for the second one already
    used = len(fresh.pods("blue")) + len(fresh.pods("green"))
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full", "namespace": NAMESPACE},
        "spec": {"hard": {"pods": str(used)}},
    }
    client.apply(fresh.machine, [quota])
    path = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas/full"
    client.wait("its count", 60, lambda: int(client.read(fresh.machine, path).get("status", {}).get("used", {}).get("pods", 0)) >= used)
    try:
        with Load(fresh.url) as load:
            load.wait_for(5)
            fresh.ask_replicas("green", 2)
            client.wait("`inferstack status` to say so", 60, lambda: "exceeded quota: full" in _reason(fresh, "green"), every=1)
            load.wait_for(5)
    finally:
        fresh.kubectl("delete", "resourcequota", "full")
    assert load.lost == []
    assert len(fresh.ready_addresses("green")) == 1


def _reason(deployed: Deployed, slot: str) -> str:
    return str(commands.status(deployed.machine)["slots"][slot]["reason"])


def _events(deployed: Deployed, pod: str) -> set[str]:
    listed = client.read(deployed.machine, f"/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.name%3D{pod}")["items"]
    return {str(one["reason"]) for one in listed}


def _kill_runtime(deployed: Deployed, pod: str) -> None:
    """SIGKILL to the pod's process, from outside: what the kernel does when memory is short."""
    uid = next(one["metadata"]["uid"] for slot in ("blue", "green") for one in deployed.pods(slot) if one["metadata"]["name"] == pod)
    found = [pid for pid in processes.of_pod(uid) if b"inferstack-runtime" in processes.command_line(pid)]
    assert len(found) == 1, found
    os.kill(found[0], signal.SIGKILL)
