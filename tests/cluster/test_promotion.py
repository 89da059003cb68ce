"""Promotions on real pods, through a real Gateway, under streaming load: nothing lost or truncated, and every end is one live slot."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness import commands
from harness.load import Load
from harness.slots import NAMESPACE, SLOTS, Deployed
from machine import client, lifecycle
from machine.layout import project_root

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def promoted_on(fresh: Deployed) -> Iterator[Deployed]:
    """The environment with blue live and no promotion on record."""
    _forget(fresh)
    yield fresh
    _forget(fresh)


def test_promotion_and_rollback_under_streaming_load_lose_nothing(promoted_on: Deployed) -> None:
    with Load(promoted_on.url) as load:
        load.wait_for(5)
        promoted = commands.run(promoted_on.machine, "promote", "--set", "slot.context=768", "--yes", "--json")
        assert promoted.returncode == 0, promoted.stderr
        after_promotion = time.time()
        load.wait_for(8)
        status = commands.status(promoted_on.machine)
        assert status["active_slot"] == "green"
        assert promoted_on.weights()["blue"] == 0
        back = commands.run(promoted_on.machine, "rollback", "--json")
        assert back.returncode == 0, back.stderr
        after_rollback = time.time()
        time.sleep(1)
        load.wait_for(8)
    assert load.lost == []
    assert {one.slot for one in load.answers if after_promotion < one.sent and one.ended < after_rollback - 30} <= {"green", "blue"}
    assert {one.slot for one in load.answers if one.sent > after_rollback + 1} == {"blue"}
    assert load.by_slot["green"] > 0
    assert commands.status(promoted_on.machine)["active_slot"] == "blue"


def test_an_image_that_is_not_there_ends_with_the_reason_and_the_live_slot_untouched(promoted_on: Deployed) -> None:
    live = promoted_on.deployment("blue")["spec"]["template"]
    with Load(promoted_on.url) as load, _empty_registry(promoted_on) as registry:
        load.wait_for(5)
        ended = commands.run(promoted_on.machine, "promote", "--set", f"slot.image={registry}/runtime:none", "--yes")
        load.wait_for(5)
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert f"{registry}/runtime:none" in ended.stderr
    assert "not found" in ended.stderr
    _only_blue_served(promoted_on, load)
    assert promoted_on.deployment("blue")["spec"]["template"] == live


def test_a_quota_that_has_no_room_for_the_new_version_ends_with_the_reason(promoted_on: Deployed) -> None:
    promoted_on.kubectl("scale", "deployment/inferstack-green", "--replicas=0")
    client.wait("no pod of green", 90, lambda: not promoted_on.pods("green"))
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full", "namespace": NAMESPACE},
        "spec": {"hard": {"pods": "1"}},
    }
    client.apply(promoted_on.machine, [quota])
    try:
        with Load(promoted_on.url) as load:
            load.wait_for(5)
            ended = commands.run(promoted_on.machine, "promote", "--set", "slot.context=704", "--yes")
            load.wait_for(5)
    finally:
        promoted_on.kubectl("delete", "resourcequota", "full")
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert "exceeded quota: full" in ended.stderr
    _only_blue_served(promoted_on, load)


def test_a_version_first_serves_only_the_requests_with_a_header_and_then_all(promoted_on: Deployed) -> None:
    machine = promoted_on.machine
    with Load(promoted_on.url, clients=2, headers={"x-cohort": "beta"}) as marked, Load(promoted_on.url, clients=2) as others:
        others.wait_for(5)
        promoting = subprocess.Popen(
            commands.command(machine, "promote", "--set", "slot.context=720", "--header", "X-Cohort=beta", "--yes"),
            env=commands.variables(machine),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=project_root(),
        )
        client.wait("a route for the header alone", 180, lambda: _cohort_alone(promoted_on) or promoting.poll() is not None)
        alone = time.time()
        said, complained = promoting.communicate(timeout=400)
        committed = time.time()
        others.wait_for(5)
    assert promoting.returncode == 0, said + complained
    assert marked.lost == others.lost == []
    first_of_others = min(one.sent for one in others.answers if one.slot == "green")
    assert sum(one.slot == "green" and one.ended < first_of_others for one in marked.answers) >= 5, "marked requests went there before"
    assert any(one.slot == "blue" and one.sent > alone for one in others.answers)
    assert {one.slot for one in others.answers if one.sent > committed} == {"green"}


@pytest.mark.parametrize("seed", range(1, 7) if os.environ.get("INFERSTACK_LONG") else [4])
def test_a_promotion_killed_anywhere_is_recovered_without_a_lost_request(promoted_on: Deployed, seed: int) -> None:
    chance = random.Random(seed)
    with Load(promoted_on.url) as load:
        load.wait_for(5)
        machine = promoted_on.machine
        running = subprocess.Popen(
            commands.command(machine, "promote", "--set", f"slot.context={640 + seed}", "--yes"),
            env=commands.variables(machine),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=project_root(),
        )
        time.sleep(chance.uniform(2, 25))
        running.send_signal(signal.SIGKILL)
        running.wait()
        recovered = commands.run_when_free(promoted_on.machine, "recover")
        assert recovered.returncode in (0, 4), recovered.stdout + recovered.stderr
        load.wait_for(8)
    assert load.lost == []
    weights = promoted_on.weights()
    assert sorted(weights) == sorted(SLOTS)
    assert min(weights.values()) == 0 < max(weights.values())
    live = max(weights, key=lambda slot: weights[slot])
    assert promoted_on.ready_addresses(live)
    assert commands.status(promoted_on.machine)["active_slot"] == live


def _cohort_alone(deployed: Deployed) -> bool:
    """Whether the header's requests go to green and no others."""
    rules = client.read(deployed.machine, f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes/inferstack")["spec"][
        "rules"
    ]
    return len(rules) == 2 and deployed.weights()["green"] == 0


def _only_blue_served(deployed: Deployed, load: Load) -> None:
    assert load.lost == []
    assert set(load.by_slot) == {"blue"}
    assert deployed.weights()["green"] == 0


@contextmanager
def _empty_registry(deployed: Deployed) -> Iterator[str]:
    """A registry on the node that has no image; containerd asks one on localhost without TLS."""
    serving = [
        *lifecycle.enter(deployed.machine),
        sys.executable,
        "-m",
        "http.server",
        "--bind=127.0.0.1",
        f"--directory={os.devnull}",
        "5000",
    ]
    registry = subprocess.Popen(serving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield "localhost:5000"
    finally:
        registry.kill()
        registry.wait()


def _forget(deployed: Deployed) -> None:
    deployed.kubectl("delete", "configmap/inferstack-journal", "lease/inferstack-promotion", "--ignore-not-found")
