"""A promotion renders the idle slot by a real `pulumi up` of the slot's own stack, through the Automation API."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from inferstack.environment import SlotName, load_environment
from inferstack.platforms.kube_render import PulumiRenderer
from inferstack.platforms.kube_slots import GENERATION_ANNOTATION, SPEC_ANNOTATION
from inferstack.platforms.under_lease import under_lease
from inferstack.promotion.lease import Lease, LeaseLost
from inferstack.promotion.platform import SlotFailed
from inferstack.promotion.spec import SlotSpec, with_settings
from tests.engine.conftest import Engine

NAME = "prod-gke"


class Notes:
    """The one call of the cluster's API that follows the update."""

    def __init__(self) -> None:
        self.merged: dict[str, Any] = {}

    def merge(self, path: str, change: Any) -> Any:
        self.merged[path] = change
        return change

    def apply(self, path: str, body: Any) -> Any:
        raise AssertionError(f"{path} is the stack's")


def deployment(engine: Engine, slot: str) -> Any:
    """The inputs of the slot's Deployment as the cloud has them."""
    (found,) = (
        item["inputs"]
        for item in engine.cloud()["resources"].values()
        if item["type"] == "kubernetes:apps/v1:Deployment" and item["inputs"]["metadata"]["name"] == f"inferstack-{slot}"
    )
    return found


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Programs started now end by SIGINT, as those of the command do, also where the tests run in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_promotion_updates_the_idle_slots_stack_and_no_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in engine.environment.items():
        monkeypatch.setenv(key, value)
    for stack in (NAME, f"{NAME}-blue", f"{NAME}-green"):
        engine.pulumi("stack", "init", stack)
        engine.up(stack)
    environment = load_environment(engine.folder / "stacks", NAME)
    blue, green = deployment(engine, "blue"), deployment(engine, "green")
    notes = Notes()
    renderer = PulumiRenderer(engine.folder, NAME, environment)
    spec = replace(with_settings(SlotSpec.from_environment(environment), {"slot.engine.max_queue": 77}), generation=5)
    renderer.render(SlotName.GREEN, spec, notes)
    after = deployment(engine, "green")
    assert after != green
    assert after["spec"]["template"]["metadata"]["annotations"][GENERATION_ANNOTATION] == "5"
    assert deployment(engine, "blue") == blue, "the live slot was touched"
    (annotations,) = [body["metadata"]["annotations"] for body in notes.merged.values()]
    assert SlotSpec.from_json(json.loads(annotations[SPEC_ANNOTATION])) == spec
    renderer.render(SlotName.GREEN, spec, notes)
    assert deployment(engine, "green") == after, "rendering twice is rendering once"

    def lost() -> None:
        raise LeaseLost(Lease("a", 1, 0, 0), None)

    notes.merged.clear()
    with pytest.raises(LeaseLost), under_lease(lost, 2.0):
        renderer.render(SlotName.GREEN, replace(spec, generation=6), notes)
    assert not notes.merged, "the update was ended"
    renderer.render(SlotName.GREEN, replace(spec, generation=7), notes)
    assert notes.merged, "the stack's lock is free"

    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{engine.folder / 'gone'}")
    with pytest.raises(SlotFailed, match=f"pulumi up of {NAME}-green"):
        renderer.render(SlotName.GREEN, replace(spec, generation=6), notes)
