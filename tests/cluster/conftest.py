"""One Kubernetes for all tests of this lane: started before the first, ended after the last unless it ran before.

Where all tests together have a limit (`INFERSTACK_TESTS_END`, epoch seconds), a test that might not end in time is skipped by name.
"""

import os
import time
from collections.abc import Iterator

import pytest
from harness import slots
from machine import build, client, lifecycle, runtime_image
from machine.layout import Machine, cache_folder, default_folder, load, project_root

END = "INFERSTACK_TESTS_END"
ONE_TEST = 10 * 60
"""Seconds that must be left for one more test: the longest took 3 minutes on two cores with others at work."""
IMAGE_AND_PODS = 25 * 60
"""Seconds that must be left before programs and image are built, which takes up to 12 minutes from nothing."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips, by name, what would not end in time."""
    if item.get_closest_marker("cluster"):
        _skip_unless_left(ONE_TEST)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Machine]:
    """A running machine in the best mode that there is here. Skips, with the reason, where there is none."""
    _skip_unless_left(IMAGE_AND_PODS)
    ran_before = load(default_folder())
    try:
        machine = lifecycle.up(say=lambda text: print(f"cluster: {text}"))
    except (lifecycle.CannotStart, build.CannotBuild) as error:
        pytest.skip(f"no Kubernetes on this machine: {error}")
    yield machine
    if not ran_before:
        lifecycle.down(machine.folder)


@pytest.fixture(scope="session")
def pods(cluster: Machine) -> Machine:
    """A machine with real pods. Skips where nodes and pods only exist in the API server."""
    if cluster.mode != "pods":
        _, reason = lifecycle.best_mode(install=False, say=print)
        pytest.skip(f"no real pods on this machine: {reason or f'it was started in mode {cluster.mode}'}")
    return cluster


@pytest.fixture
def namespace(cluster: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, where only pods of the Pod Security Standard `restricted` are admitted."""
    name = f"t-{abs(hash(request.node.nodeid)) % 16**8:08x}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    client.apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}])
    client.wait("service account", 30, lambda: client.get(cluster, f"/api/v1/namespaces/{name}/serviceaccounts/default")[0] == 200)
    yield name
    client.kubectl(cluster, "delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def environment(pods: Machine) -> Iterator[slots.Deployed]:
    """The environment `cluster`, deployed with the runtime's real image. Skips where the image cannot be built."""
    try:
        archive = runtime_image.archive(project_root(), cache_folder(), lambda text: print(f"cluster: {text}"))
    except runtime_image.CannotBuildImage as error:
        pytest.skip(f"no image of the runtime: {error}")
    lifecycle.import_image(pods, archive)
    yield slots.deploy(pods)
    slots.remove(pods)


@pytest.fixture
def fresh(environment: slots.Deployed) -> slots.Deployed:
    """The environment as it was deployed, whatever the test before did to it."""
    environment.reset()
    return environment


def _skip_unless_left(seconds: float) -> None:
    end = os.environ.get(END)
    if end and (left := float(end) - time.time()) < seconds:
        pytest.skip(f"{max(0, left) / 60:.0f} minutes are left of what all tests may take, and this needs {seconds / 60:.0f}")
