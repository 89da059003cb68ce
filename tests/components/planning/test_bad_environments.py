from datetime import date
from typing import Any

import pytest

from inferstack.planning import check
from inferstack.planning.findings import Finding

from .fixtures import bad_environments, base, base_names, changed

TODAY = date(2026, 11, 21)


def loud(findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.severity != "info"]


@pytest.mark.parametrize("name", base_names())
def test_a_good_environment_has_no_findings_to_act_on(name: str) -> None:
    assert loud(check(base(name), name, TODAY)) == []


@pytest.mark.parametrize("case", bad_environments(), ids=lambda case: case["name"])
def test_a_bad_environment_gives_one_finding_that_names_the_fix(case: dict[str, Any]) -> None:
    findings = loud(check(changed(base(case["base"]), case["change"]), case["name"], TODAY))
    assert [(f.rule, f.path) for f in findings] == [(case["rule"], case["path"])], "\n".join(map(str, findings))
    for word in case["fix"]:
        assert word in findings[0].fix, findings[0]
    assert findings[0].message.endswith(".")
    assert findings[0].fix.endswith(".")


def test_there_are_at_least_fifty_bad_environments_of_many_rules() -> None:
    cases = bad_environments()
    assert len(cases) >= 50
    assert len({case["rule"] for case in cases}) >= 45
    assert len({case["name"] for case in cases}) == len(cases)


@pytest.mark.parametrize(("tokens", "noted"), [(512, True), (2048, False)])
def test_a_small_step_of_vllm_is_noted(tokens: int, noted: bool) -> None:
    findings = check(changed(base("gke"), {"engine": {"max_batch_tokens": tokens}}), "gke", TODAY)
    assert [f.path for f in findings if f.rule == "step-small"] == ["engine.max_batch_tokens"] * noted
