import ast
from datetime import date
from pathlib import Path

import pytest

from inferstack import planning
from inferstack.environment import Waiver, parse_environment
from inferstack.planning import NAMES, Finding, check, plan_findings, waive

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


def test_a_waiver_of_no_rule_names_the_nearest() -> None:
    kept = waive([FINDING], [waiver(rule="signal-blnd")], TODAY, NAMES)
    assert [(f.rule, f.severity, f.path) for f in kept] == [
        (FINDING.rule, "warning", FINDING.path),
        ("waiver-unknown", "warning", "waivers[0].rule"),
    ]
    assert "`signal-blind`" in kept[1].fix


def test_every_finding_of_planning_has_a_name_that_a_waiver_may_use() -> None:
    written: set[str] = set()
    for file in Path(planning.__file__).parent.rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        made = (node.args[0] for node in calls if node.args and getattr(node.func, "id", "") in ("Finding", "_unknown"))
        written |= {name.value for name in made if isinstance(name, ast.Constant)}
    assert written - {"environment"} <= NAMES
    assert NAMES - written <= {"machine-retired", "machine-unknown"}


def test_a_machine_that_comes_with_local_disks_is_not_judged_by_its_boot_disk() -> None:
    gpu = {"accelerator": "nvidia-a100-80gb", "machine_type": "a2-ultragpu-1g"}
    change = {"gpu": gpu, "slots": {"resources": {"ephemeral_storage": "200Gi"}}, "budget~": {"hourly_usd": 100}}
    rules = {f.rule for f in check(changed(base("gke"), change), today=TODAY)}
    assert "disk-too-small" not in rules
    assert "disk-too-small" in {f.rule for f in check(changed(base("gke"), change | {"gpu": {}}), today=TODAY)}


def test_replicas_that_roll_are_not_blamed_for_steps_that_nobody_wrote() -> None:
    assert [
        finding for finding in check(changed(base("gke"), {"promotion": {"strategy": "rolling"}})) if finding.path == "promotion.steps"
    ] == []
