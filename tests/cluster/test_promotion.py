"""Promotions on real pods, through a real Gateway, under streaming load: nothing lost or truncated, and every end is one live slot."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import measure, slots
from harness.load import Load
from harness.slots import ENVIRONMENT, SLOTS, Deployed
from machine import client, lifecycle
from machine.layout import project_root

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def promoted_on(fresh: Deployed) -> Iterator[Deployed]:
    """The environment with blue live and no promotion on record. Skips where the commands do not know clusters."""
    if refused := measure.commands_work(fresh):
        pytest.skip(f"`inferstack status {ENVIRONMENT}`: {refused}")
    _forget(fresh)
    yield fresh
    _forget(fresh)


def test_promotion_and_rollback_under_streaming_load_lose_nothing(promoted_on: Deployed) -> None:
    with Load(promoted_on.url) as load:
        load.wait_for(5)
        promoted = _inferstack(promoted_on, "promote", "--set", "slot.context=768", "--yes", "--json")
        assert promoted.returncode == 0, promoted.stderr
        after_promotion = time.time()
        load.wait_for(8)
        status = _status(promoted_on)
        assert status["active_slot"] == "green"
        assert promoted_on.weights()["blue"] == 0
        back = _inferstack(promoted_on, "rollback", "--json")
        assert back.returncode == 0, back.stderr
        after_rollback = time.time()
        time.sleep(1)
        load.wait_for(8)
    assert load.lost == []
    assert {one.slot for one in load.answers if after_promotion < one.sent and one.ended < after_rollback - 30} <= {"green", "blue"}
    assert {one.slot for one in load.answers if one.sent > after_rollback + 1} == {"blue"}
    assert load.by_slot["green"] > 0
    assert _status(promoted_on)["active_slot"] == "blue"


def test_an_image_that_is_not_there_ends_with_the_reason_and_the_live_slot_untouched(promoted_on: Deployed) -> None:
    live = promoted_on.deployment("blue")["spec"]["template"]
    with Load(promoted_on.url) as load:
        load.wait_for(5)
        ended = _inferstack(promoted_on, "promote", "--set", "slot.image=localhost/there-is-no-such-image:1", "--yes")
        load.wait_for(5)
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert "image" in (ended.stdout + ended.stderr).lower()
    assert load.lost == []
    assert set(load.by_slot) == {"blue"}
    assert promoted_on.deployment("blue")["spec"]["template"] == live
    assert promoted_on.weights()["green"] == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_promotion_killed_anywhere_is_recovered_without_a_lost_request(promoted_on: Deployed, seed: int) -> None:
    chance = random.Random(seed)
    with Load(promoted_on.url) as load:
        load.wait_for(5)
        command = _command(promoted_on, "promote", "--set", f"slot.context={640 + seed}", "--yes")
        running = subprocess.Popen(
            command, env=_environment(promoted_on), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=project_root()
        )
        time.sleep(chance.uniform(2, 25))
        running.send_signal(signal.SIGKILL)
        running.wait()
        recovered = _inferstack(promoted_on, "recover", check_lease=True)
        assert recovered.returncode in (0, 4), recovered.stdout + recovered.stderr
        load.wait_for(8)
    assert load.lost == []
    weights = promoted_on.weights()
    assert sorted(weights) == sorted(SLOTS)
    assert min(weights.values()) == 0 < max(weights.values())
    live = max(weights, key=lambda slot: weights[slot])
    assert promoted_on.ready_addresses(live)
    assert _status(promoted_on)["active_slot"] == live


def _forget(deployed: Deployed) -> None:
    deployed.kubectl("delete", "configmap/inferstack-journal", "lease/inferstack-promotion", "--ignore-not-found")


def _command(deployed: Deployed, *arguments: str) -> list[str]:
    program = str(Path(sys.executable).parent / "inferstack")
    return [*lifecycle.enter(deployed.machine), program, arguments[0], ENVIRONMENT, *arguments[1:]]


def _environment(deployed: Deployed) -> dict[str, str]:
    return slots.command_environment(deployed.machine)


def _inferstack(deployed: Deployed, *arguments: str, check_lease: bool = False) -> subprocess.CompletedProcess[str]:
    """The command; with ``check_lease`` again until the lease of a killed promoter has run out."""
    until = time.monotonic() + 120
    while True:
        done = subprocess.run(
            _command(deployed, *arguments),
            env=_environment(deployed),
            cwd=project_root(),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if not check_lease or done.returncode != 5 or time.monotonic() > until:
            return done
        time.sleep(3)


def _status(deployed: Deployed) -> Any:
    done = _inferstack(deployed, "status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_commands_refuse_another_cluster(promoted_on: Deployed, tmp_path: Path) -> None:
    other = tmp_path / "kubeconfig"
    text = promoted_on.machine.kubeconfig.read_text().replace("inferstack-machine", "somebody-elses")
    other.write_text(text)
    command = _command(promoted_on, "promote", "--set", "slot.context=700", "--yes")
    done = subprocess.run(
        command, env=_environment(promoted_on) | {"KUBECONFIG": str(other)}, cwd=project_root(), capture_output=True, text=True, check=False
    )
    assert done.returncode in (2, 5), done.stdout + done.stderr
    assert "inferstack-machine" in done.stderr
    assert client.get(promoted_on.machine, "/api/v1/namespaces/inferstack/configmaps/inferstack-journal")[0] == 404
