"""Broken in every way that a real cluster breaks: the live slot goes on serving, and the cluster says what is wrong."""

import json
import os
import signal

import pytest
from harness.load import Load
from harness.slots import NAMESPACE, Deployed
from machine import client, processes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


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
    """What a crash costs is the requests that the process had; nothing after that is lost."""
    fresh.fix_replicas("blue", 2)
    with Load(fresh.url, clients=2) as load:
        load.wait_for(10)
        _kill_runtime(fresh, fresh.pods("blue")[0]["metadata"]["name"])
        client.wait("one ready endpoint", 60, lambda: len(fresh.ready_addresses("blue")) == 1)
        lost = len(load.lost)
        load.wait_for(10)
        assert len(load.lost) == lost
        fresh.wait_ready("blue", 2)
        load.wait_for(10)
    assert len(load.lost) == lost
    assert {one.slot for one in load.answers if not one.failure} == {"blue"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"image": "localhost/there-is-no-such-image:1"}, "ErrImage|ImagePull", id="an image that cannot be pulled"),
        pytest.param(
            {"command": ["python3", "-c", "raise SystemExit('broken')"], "args": []}, "CrashLoopBackOff", id="a process that ends at once"
        ),
        pytest.param({"resources": {"limits": {"nvidia.com/gpu": "1"}}}, "Insufficient nvidia.com/gpu", id="a GPU that no node has"),
        pytest.param({"args": ["serve", "--config", "/nowhere.json"]}, "CrashLoopBackOff", id="a configuration that is not there"),
    ],
)
def test_an_idle_slot_that_cannot_become_ready_says_why_and_takes_nothing_from_the_live_one(
    fresh: Deployed, change: dict[str, object], reason: str
) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "runtime", **change}]}}}}
    with Load(fresh.url) as load:
        load.wait_for(5)
        fresh.kubectl("patch", "deployment", "inferstack-green", "--type=strategic", f"--patch={json.dumps(patch)}")
        client.wait(reason, 90, lambda: any(one in fresh.waiting_reason("green") for one in reason.split("|")))
        load.wait_for(5)
    assert load.lost == []
    assert set(load.by_slot) == {"blue"}
    assert len(fresh.ready_addresses("green")) == 1, "the old replica stays until a new one is ready"


def test_a_pod_that_fills_its_disk_is_replaced_and_the_live_slot_serves_on(fresh: Deployed) -> None:
    pod = fresh.pods("green")[0]["metadata"]["name"]
    with Load(fresh.url) as load:
        load.wait_for(5)
        fill = "import os; f = open('/tmp/fill', 'wb'); [f.write(bytes(1 << 20)) for _ in range(300)]; f.flush()"  # its limit is 256 MiB
        fresh.kubectl("exec", pod, "--", "python3", "-c", fill)
        client.wait("eviction", 120, lambda: "Evicted" in _events(fresh, pod))
        fresh.wait_ready("green")
        load.wait_for(5)
    assert load.lost == []
    assert pod not in {one["metadata"]["name"] for one in fresh.pods("green") if one["status"]["phase"] == "Running"}


def _events(deployed: Deployed, pod: str) -> set[str]:
    listed = client.read(deployed.machine, f"/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.name%3D{pod}")["items"]
    return {str(one["reason"]) for one in listed}


def _kill_runtime(deployed: Deployed, pod: str) -> None:
    """SIGKILL to the pod's process, from outside: what the kernel does when memory is short."""
    uid = next(one["metadata"]["uid"] for slot in ("blue", "green") for one in deployed.pods(slot) if one["metadata"]["name"] == pod)
    found = [pid for pid in processes.of_pod(uid) if b"inferstack-runtime" in processes.command_line(pid)]
    assert len(found) == 1, found
    os.kill(found[0], signal.SIGKILL)
