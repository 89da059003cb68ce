"""A machine comes up, is found again, survives the loss of its programs, and leaves nothing behind however it ends."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import client, enclosure, lifecycle, processes
from machine.layout import CONTEXT, Machine, Mode
from machine.pins import kubernetes_version

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "waits", "namespace": "default"},
    "spec": {
        "containers": [{"name": "pause", "image": "localhost/pause:1", "imagePullPolicy": "Never"}],
        "terminationGracePeriodSeconds": 1,
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a second machine beside the one that the other tests use."""
    where = Path(f"/tmp/inferstack-test-{os.getpid()}")
    yield where
    lifecycle.down(where)


@pytest.fixture
def second(folder: Path, pods: Machine) -> Machine:
    return lifecycle.up("pods", folder, print)


def test_two_machines_run_beside_each_other_and_the_end_of_one_leaves_the_other_and_nothing_else(pods: Machine, folder: Path) -> None:
    before = _traces(folder)
    second = lifecycle.up("pods", folder, print)
    client.apply(second, [POD])
    client.wait("pod", 60, lambda: _phase(second) == "Running")
    assert client.kubectl(pods, "get", "pods", "--namespace=default", "--output=name").stdout == ""
    assert lifecycle.down(folder)
    assert _traces(folder) == before
    assert client.ready(pods)
    assert not lifecycle.down(folder)


def test_nothing_is_left_when_its_programs_were_killed_before(pods: Machine, folder: Path) -> None:
    before = _traces(folder)
    second = lifecycle.up("pods", folder, print)
    client.apply(second, [POD])
    client.wait("pod", 60, lambda: _phase(second) == "Running")
    for name in ("containerd", "kubelet", "kube-apiserver", "etcd", "relay"):
        os.kill(processes.inner_pid(processes.named(folder, name)), signal.SIGKILL)
    assert lifecycle.down(folder)
    assert _traces(folder) == before


@pytest.mark.parametrize("seed", range(8 if os.environ.get("INFERSTACK_LONG") else 4))
def test_nothing_is_left_when_up_and_then_down_are_killed_anywhere(pods: Machine, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    before = _traces(folder)
    _killed_after(chance.uniform(0.2, 9), folder, "up", "--pods")
    _killed_after(chance.uniform(0.05, 1), folder, "down")
    assert subprocess.run(_command("down"), env=_environment(folder), check=False).returncode == 0
    client.wait("end of what helped it", 10, lambda: _traces(folder)["processes"] == before["processes"])
    assert _traces(folder) == before


def test_nothing_is_left_when_up_was_killed_with_a_node_half_started(pods: Machine, folder: Path) -> None:
    before = _traces(folder)
    starting = subprocess.Popen(_command("up", "--pods"), env=_environment(folder), stdout=subprocess.DEVNULL)
    try:
        client.wait("half way", 60, lambda: (folder / "processes" / "kubelet.json").exists())
    finally:
        starting.kill()
        starting.wait()
    assert lifecycle.down(folder)
    assert _traces(folder) == before


@pytest.mark.parametrize("mode", ["kwok", "api"])
def test_without_real_pods_the_same_api_server_admits_the_same_objects_and_leaves_nothing(
    cluster: Machine, folder: Path, mode: Mode
) -> None:
    before = _traces(folder)
    second = lifecycle.up(mode, folder, print)
    assert client.read(second, "/version")["gitVersion"] == kubernetes_version()
    kinds = client.kubectl(second, "api-resources", "--output=name").stdout.split()
    assert {"httproutes.gateway.networking.k8s.io", "scaledobjects.keda.sh", "servicemonitors.monitoring.coreos.com"} <= set(kinds)
    if mode == "kwok":
        client.apply(second, [POD])
        client.wait("pod", 60, lambda: _phase(second) == "Running")
    for running in processes.remembered(folder):
        os.kill(running.pid, signal.SIGKILL) if running.name == "etcd" else None
    assert lifecycle.down(folder)
    assert _traces(folder) == before


def test_when_the_holder_of_the_namespaces_is_killed_everything_in_them_ends(second: Machine) -> None:
    inside = [processes.inner_pid(r) for r in processes.remembered(second.folder) if r.name != "enclosure"]
    assert len(inside) > 8
    holder = processes.named(second.folder, "enclosure")
    os.kill(holder.pid, signal.SIGKILL)
    client.wait("end of every program", 10, lambda: not any(processes._start_time(pid) for pid in inside))


def test_up_finds_the_machine_that_runs(cluster: Machine) -> None:
    assert lifecycle.up(folder=cluster.folder) == cluster


def test_kubectl_of_the_tests_names_its_context(cluster: Machine) -> None:
    assert client.kubectl(cluster, "config", "current-context").stdout.strip() == CONTEXT
    config = client.kubectl(cluster, "config", "view", "--minify").stdout
    assert f"server: https://127.0.0.1:{cluster.ports.api}" in config


def test_listeners_outside_of_the_namespaces_are_on_loopback(cluster: Machine) -> None:
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    for port in (cluster.ports.api, cluster.ports.gateway):
        addresses = re.findall(rf"\s(\S+):{port}\s", listening)
        assert addresses in ([], ["127.0.0.1"]), listening
    assert re.search(rf"127\.0\.0\.1:{cluster.ports.api}\s", listening)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "machine", *words]


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"INFERSTACK_MACHINE": str(folder), "PYTHONPATH": str(Path(__file__).parent)}


def _killed_after(seconds: float, folder: Path, *words: str) -> None:
    """Run a command of the machine and kill it without warning, unless it ends before."""
    running = subprocess.Popen(_command(*words), env=_environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


def _phase(m: Machine) -> str:
    phase: str = client.read(m, "/api/v1/namespaces/default/pods/waits")["status"]["phase"]
    return phase


def _traces(folder: Path) -> dict[str, object]:
    """Everything on this machine that a cluster could leave behind."""

    def output(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    switches = [Path("/proc/sys") / one for one in enclosure._SWITCHES]
    return {
        "processes": [one for one in output("ps", "-eo", "args").splitlines() if str(folder) in one],
        "mounts": [one for one in Path("/proc/mounts").read_text().splitlines() if re.search(rf"{folder}|/cni|containerd|kubelet", one)],
        "links": sorted(re.findall(r"^\d+: ([^:@]+)", output("ip", "link"), re.MULTILINE)),
        "routes": output("ip", "route"),
        "rules": re.sub(r"\[\d+:\d+\]|^#.*$", "", output("iptables-save"), flags=re.MULTILINE),
        "namespaces": output("ip", "netns"),
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").rglob(folder.name)],
        "switches": [path.read_text() for path in switches if path.exists()],
        "folders": [
            path for path in (folder, Path("/run/containerd/s"), Path("/var/lib/cni"), Path("/var/log/containers")) if path.exists()
        ],
        "sockets": [one for one in output("ss", "-Hxl").splitlines() if str(folder) in one],
    }
