"""The lease while another program works for the promotion."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from inferstack.platforms import under_lease as module
from inferstack.platforms.under_lease import under_lease
from inferstack.promotion.lease import Lease, LeaseLost
from inferstack.promotion.platform import SlotFailed, Unavailable

SLEEP = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); time.sleep(60)"]
"""Also where the tests themselves run in the background, with a SIGINT that is ignored."""


def lost() -> None:
    raise LeaseLost(Lease("a", 1, 0, 0), None)


@pytest.mark.parametrize(("fails", "linux"), [(False, True), (True, True), (False, False)])
def test_what_was_started_under_a_lease_is_asked_to_stop_when_that_is_lost(
    fails: bool, linux: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not linux:
        monkeypatch.setattr(module, "TASKS", tmp_path / "none")
    began = time.monotonic()
    with subprocess.Popen(SLEEP) as other:
        with pytest.raises(LeaseLost), under_lease(lost, 0.3):
            subprocess.run(SLEEP, check=fails, stderr=subprocess.DEVNULL)
        assert time.monotonic() - began < 30
        assert other.poll() is None, "it was there before"
        other.kill()


def test_the_lease_is_renewed_while_the_work_lasts_and_a_fault_of_the_work_stays_its_own() -> None:
    asked: list[int] = []

    def renew() -> None:
        asked.append(1)
        if len(asked) == 1:
            raise Unavailable("the API server is away")

    def work() -> None:
        deadline = time.monotonic() + 10
        while len(asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        raise SlotFailed("quota")

    with pytest.raises(SlotFailed, match="quota"), under_lease(renew, 0.02):
        work()
    count = len(asked)
    assert count >= 3
    time.sleep(0.1)
    assert len(asked) == count, "it goes on after the work"
