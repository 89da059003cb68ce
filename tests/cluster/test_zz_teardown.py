"""The end of an environment; runs last, because it takes away what the other tests use."""

import pytest
from harness import slots
from harness.slots import NAMESPACE, Deployed
from machine import client, processes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_destroying_the_environment_leaves_nothing(environment: Deployed) -> None:
    uids = [pod["metadata"]["uid"] for slot in slots.SLOTS for pod in environment.pods(slot)]
    assert any(processes.of_pod(uid) for uid in uids)
    slots.remove(environment.machine)
    assert client.get(environment.machine, f"/api/v1/namespaces/{NAMESPACE}")[0] == 404
    assert slots.everything(environment.machine) == environment.before
    client.wait("end of every process", 60, lambda: not any(processes.of_pod(uid) for uid in uids))
