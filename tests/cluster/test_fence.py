"""What only a real API server says of the writes of a promoter: whose the fields are, and who may still write."""

import time
from typing import Any

import pytest
from machine.layout import CONTEXT, Machine

from inferstack.platforms.kube_api import MANAGER, KubeApi
from inferstack.platforms.kube_fence import FENCE_ANNOTATION, Fence
from inferstack.platforms.kube_state import KubeState
from inferstack.promotion.lease import LeaseLost

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_what_a_promoter_creates_is_taken_back_by_a_later_apply_and_written_by_no_former_one(
    cluster: Machine, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    api = KubeApi.from_kubeconfig(CONTEXT)
    state = KubeState(api, namespace, "test")
    path = f"/api/v1/namespaces/{namespace}/configmaps/made"

    def body(**data: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made", "namespace": namespace}, "data": data}

    first = state.acquire_lease("alice@host:1", time.time(), holder_gone=False)
    Fence(api, state, lambda: first).apply(path, body(a="1", b="2"))
    found = api.get(path)
    assert found is not None
    assert found["metadata"]["annotations"][FENCE_ANNOTATION] == "1 alice@host:1"
    assert {entry["operation"] for entry in found["metadata"]["managedFields"] if entry["manager"] == MANAGER} == {"Apply"}
    second = state.acquire_lease("bob@host:2", time.time(), holder_gone=True)
    Fence(api, state, lambda: second).apply(path, body(a="3"))
    with pytest.raises(LeaseLost):
        Fence(api, state, lambda: first).apply(path, body(a="4", b="4"))
    found = api.get(path)
    assert found is not None
    assert found["data"] == {"a": "3"}, "a field of the first write stayed"


@pytest.mark.parametrize("adopted", [False, True])
def test_what_a_promoter_made_that_had_slept_is_taken_back_unless_another_wrote_it(
    cluster: Machine, namespace: str, monkeypatch: pytest.MonkeyPatch, adopted: bool
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    api = KubeApi.from_kubeconfig(CONTEXT)
    state = KubeState(api, namespace, "test")
    path = f"/api/v1/namespaces/{namespace}/configmaps/late"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": namespace}, "data": {"a": "1"}}
    first, create = state.acquire_lease("alice@host:1", time.time(), holder_gone=False), api.create

    def late(place: str, made: dict[str, Any]) -> dict[str, Any]:
        """The lease is taken over while it sleeps before this request."""
        second = state.acquire_lease("bob@host:2", time.time(), holder_gone=True)
        created = create(place, made)
        if adopted:
            Fence(api, state, lambda: second).apply(path, body)
        return created

    monkeypatch.setattr(api, "create", late)
    with pytest.raises(LeaseLost):
        Fence(api, state, lambda: first).apply(path, body)
    found = api.get(path)
    assert (found is not None) is adopted
    if found is not None:
        assert found["metadata"]["annotations"][FENCE_ANNOTATION] == "2 bob@host:2"
