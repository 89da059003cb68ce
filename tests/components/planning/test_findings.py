from datetime import date

import pytest

from inferstack.environment import Waiver, parse_environment
from inferstack.planning import Finding, check, plan_findings, waive

from .fixtures import base, changed

TODAY = date(2026, 11, 21)
FINDING = Finding("signal-blind", "warning", "scaling.policy", "says little.", "use queue.")


def waiver(**changes: str) -> Waiver:
    return Waiver(**{"rule": "signal-blind", "reason": "no queue metric yet", "owner": "ops", "expires": "2026-12-31", **changes})


def test_a_waiver_turns_its_finding_into_a_note_that_says_who_and_until_when() -> None:
    [kept] = waive([FINDING], [waiver()], TODAY)
    assert kept.severity == "info"
    assert "ops" in kept.message
    assert "2026-12-31" in kept.message


@pytest.mark.parametrize("path", ["scaling", "scaling.policy", "*"])
def test_a_waiver_holds_for_its_path_and_below(path: str) -> None:
    assert waive([FINDING], [waiver(path=path)], TODAY)[0].severity == "info"


@pytest.mark.parametrize("changes", [{"rule": "other"}, {"path": "gpu"}, {"path": "scaling.pol"}])
def test_a_waiver_holds_for_nothing_else(changes: dict[str, str]) -> None:
    assert FINDING in waive([FINDING], [waiver(**changes)], TODAY)


def test_an_expired_waiver_accepts_nothing_and_is_an_error() -> None:
    kept = waive([FINDING], [waiver(expires="2026-11-20")], TODAY)
    assert FINDING in kept
    assert [f.rule for f in kept if f.severity == "error"] == ["waiver-expired"]


def test_a_waiver_holds_on_its_last_day() -> None:
    assert waive([FINDING], [waiver(expires="2026-11-21")], TODAY)[0].severity == "info"


def test_errors_come_first_and_every_problem_at_once() -> None:
    raw = changed(base("gke"), {"engine": {"image": "vllm:latest"}, "scaling": {"policy": "cpu"}, "gateway": {"internal": False}})
    findings = check(raw, today=TODAY)
    assert [f.rule for f in findings if f.severity != "info"] == ["image-digest", "public-without-tls", "signal-blind"]
    severities = [f.severity for f in findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)


def test_planning_is_pure() -> None:
    environment = parse_environment(base("aks"))
    assert plan_findings(environment, TODAY) == plan_findings(environment, TODAY)
