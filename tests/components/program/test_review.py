"""Findings of a plan, and of the program itself: the same words."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.environment import environment_names, load_environment
from inferstack.planning import Finding, check, plan_findings
from inferstack.program import review as review_module
from inferstack.program.plan import plan_environment
from inferstack.program.review import context_of, review, rule_findings
from inferstack.program.run import ProgramFailed, run_function
from inferstack.serving.stack import deploy
from inferstack_policies import RULES, Resource
from tests.components.planning.fixtures import bad_environments, base, changed

ROOT = Path(__file__).parents[3]
BAD = {"drain": {"seconds": 700, "grace_seconds": 800}, "gateway": {"class_name": "traefik", "timeout_seconds": 900}}


def project(folder: Path, change: dict[str, Any]) -> Path:
    """A copy of the project with one environment, `kubernetes`, changed."""
    (folder / "stacks").mkdir(parents=True)
    (folder / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    (folder / "stacks/__main__.py").write_text((ROOT / "stacks/__main__.py").read_text())
    document = yaml.safe_load((ROOT / "stacks/Pulumi.kubernetes.yaml").read_text())
    document["config"]["inferstack:environment"] |= change
    (folder / "stacks/Pulumi.kubernetes.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.mark.parametrize("name", environment_names(ROOT / "stacks"))
def test_no_shipped_environment_has_a_planning_error_even_without_its_waivers(name: str) -> None:
    environment = load_environment(ROOT / "stacks", name).model_copy(update={"waivers": ()})
    assert [str(finding) for finding in plan_findings(environment) if finding.severity == "error"] == []


@pytest.mark.parametrize("golden", sorted((ROOT / "tests/components/plan/golden").glob("*.json")), ids=lambda file: file.stem)
def test_no_planned_resource_of_a_shipped_environment_breaks_a_rule_of_severity_error_even_without_waivers(golden: Path) -> None:
    environment = load_environment(ROOT / "stacks", golden.stem.rpartition(".")[0]).model_copy(update={"waivers": ()})
    rows = json.loads(golden.read_text(encoding="utf-8"))["resources"]
    assert rows
    found = rule_findings((Resource(row["type"], row["name"], row["inputs"]) for row in rows), context_of(environment))
    assert [str(finding) for finding in found if finding.severity == "error"] == []


def test_a_plan_shows_findings_of_the_environment_and_of_its_resources(tmp_path: Path) -> None:
    tag = {"engine": {"image": "vllm/vllm-openai:latest"}}
    plan = plan_environment(of_environment(tmp_path, changed(base("aks"), tag)), "own")
    shown = plan.to_json()
    paths = {finding["path"].partition(":")[0] for finding in shown["findings"] if finding["severity"] != "info"}
    assert paths == {"engine.image", "ManagedCluster/own-cluster"}  # the tag where it is written, not again at each Deployment
    assert all({"rule", "severity", "path", "message", "fix"} <= finding.keys() for finding in shown["findings"])
    assert {"hourly_usd", "monthly_usd", "during_promotion_hourly_usd"} <= shown["cost"].keys()


def test_the_program_stops_with_the_words_of_the_plan(tmp_path: Path) -> None:
    root = project(tmp_path, BAD)
    environment = load_environment(root / "stacks", "kubernetes")
    expected = [str(finding) for finding in plan_findings(environment) if finding.severity == "error"]
    assert expected
    config = yaml.safe_load((root / "stacks/Pulumi.kubernetes.yaml").read_text())["config"]
    with pytest.raises(ProgramFailed) as stopped:
        run_function(lambda: deploy(root / "stacks"), project="inferstack", stack="kubernetes", config=config)
    for words in expected:
        assert words in str(stopped.value)


BAD_ENVIRONMENTS = [(case, check(changed(base(case["base"]), case["change"]))) for case in bad_environments()]
ERRORS = [(case, found) for case, found in BAD_ENVIRONMENTS if found[0].severity == "error"]


@pytest.mark.parametrize(("case", "found"), ERRORS[::9], ids=lambda value: value["name"] if isinstance(value, dict) else "")
def test_a_bad_environment_stops_the_program_with_the_words_of_the_plan(case: dict[str, Any], found: list[Finding]) -> None:
    raw = changed(base(case["base"]), case["change"])
    with pytest.raises(ProgramFailed) as stopped:
        run_function(lambda: deploy(ROOT / "stacks"), project="inferstack", stack="bad", config={"inferstack:environment": raw})
    for finding in found:
        if finding.severity == "error":
            assert finding.message.removesuffix(".") in str(stopped.value)


def test_what_the_provider_will_only_know_later_is_said_to_be_open() -> None:
    environment = load_environment(ROOT / "stacks", "kubernetes")
    resource = Resource("kubernetes:core/v1:Service", "s", {"metadata": {"name": "s", "namespace": "n"}, "spec": {"type": "[unknown]"}})
    findings = [f for f in review(environment, [resource], date(2026, 11, 21)) if f.rule == "service-public"]
    assert [f.severity for f in findings] == ["info"]
    assert "Service/s" in findings[0].message


def of_environment(folder: Path, raw: dict[str, Any]) -> Path:
    """A project with one environment, `own`."""
    root = project(folder, {})
    (root / "stacks/Pulumi.own.yaml").write_text(yaml.safe_dump({"config": {"inferstack:environment": raw}}))
    return root


WHOLE = [
    *("flex-start on AKS", "larger than the managed cache", "threshold unknown", "partition and sharing"),  # components refuse these too
    *("image by tag", "ready in a second", "grace beyond the autoscaler", "region of the other cloud", "production that can be deleted"),
]
"""Bad environments of which the rules on resources, or the components themselves, have something to say as well."""


@pytest.mark.parametrize("case", [case for case in bad_environments() if case["name"] in WHOLE], ids=lambda case: case["name"])
def test_the_whole_plan_of_a_bad_environment_has_the_one_finding_too(case: dict[str, Any], tmp_path: Path) -> None:
    found = plan_environment(of_environment(tmp_path, changed(base(case["base"]), case["change"])), "own")
    loud = [(f.rule, f.path) for f in found.findings if f.severity != "info"]
    standing = {("cluster-private", "ManagedCluster/own-cluster: apiServerAccessProfile")} if case["base"] == "aks" else set()
    assert set(loud) - standing == {(case["rule"], case["path"])}


def test_a_rule_is_not_silenced_by_what_a_waiver_accepts(tmp_path: Path) -> None:
    waiver = {"rule": "ready-too-short", "reason": "a cluster that has every image", "owner": "ops", "expires": "2027-01-01"}
    root = of_environment(tmp_path, base("kubernetes") | {"promotion": {"ready_seconds": 60}, "waivers": [waiver]})
    assert {f.rule for f in plan_environment(root, "own").findings if f.severity == "error"} == {"probe-startup"}


def test_a_waiver_whose_rule_is_misspelt_says_so_and_accepts_nothing(tmp_path: Path) -> None:
    waiver = {"rule": "probe-startupp", "reason": "a cluster that has every image", "owner": "ops", "expires": "2027-01-01"}
    [found] = [
        f
        for f in plan_environment(of_environment(tmp_path, base("kubernetes") | {"waivers": [waiver]}), "own").findings
        if f.severity == "warning"
    ]
    assert (found.rule, found.path, found.fix) == ("waiver-unknown", "waivers[0].rule", "use `probe-startup`.")


def test_every_cause_names_rules_that_there_are() -> None:
    assert set(review_module._CAUSES) <= {rule.id for rule in RULES}


def test_a_model_that_spans_nodes_breaks_no_rule(tmp_path: Path) -> None:
    two = {
        "engine": {"tensor_parallel": 1, "pipeline_parallel": 2},
        "gpu": {"count": 2, "quota": 16, "max_nodes": 8},
        "budget~": {"hourly_usd": 100},
    }
    found = plan_environment(of_environment(tmp_path, changed(base("gke"), two)), "own")
    assert [item.type for item in found.resources if item.type.endswith(":LeaderWorkerSet")]
    assert [str(f) for f in found.findings if f.severity != "info"] == []
