from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from inferstack_policies import RULES, Context, Resource, evaluate

from .fixtures import bad, fine, stack

CASES = bad()


def broken(case: dict[str, Any], rules: tuple[Any, ...] = RULES) -> set[str]:
    resources, context = stack(case)
    return {violation.rule for violation in evaluate(resources, context, rules).violations}


def test_the_good_stack_breaks_no_rule_and_leaves_none_undecided() -> None:
    resources, context = stack()
    verdict = evaluate(resources, context, RULES)
    assert verdict.violations == ()
    assert verdict.undecided == ()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['rule']}: {case['why']}")
def test_a_bad_stack_breaks_its_rule_and_no_other(case: dict[str, Any]) -> None:
    assert broken(case) == {case["rule"], *case.get("with", ())}


@pytest.mark.parametrize("case", fine(), ids=lambda case: case["why"])
def test_what_only_looks_like_a_hole_breaks_no_rule(case: dict[str, Any]) -> None:
    assert broken(case) == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_that_is_removed_is_missed(rule: Any) -> None:
    """Mutation: without the rule, or with one in its place that never speaks, its own fixtures are not as expected."""
    own = [case for case in CASES if case["rule"] == rule.id]
    silent = replace(rule, check=None, check_stack=None)
    for rest in (tuple(r for r in RULES if r is not rule), tuple(silent if r is rule else r for r in RULES)):
        assert any(broken(case, rest) != {rule.id, *case.get("with", ())} for case in own)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_why_and_what_to_do(rule: Any) -> None:
    assert rule.id == rule.id.lower()
    assert rule.severity in ("error", "warning")
    assert rule.reason.endswith(".")
    assert rule.fix.endswith(".")
    assert isinstance(rule.also, tuple)
    assert (rule.check is None) != (rule.check_stack is None)
    assert rule.check_stack is not None or rule.kinds


def test_rules_have_their_own_ids_and_fixtures() -> None:
    assert [key for key, count in Counter(rule.id for rule in RULES).items() if count > 1] == []
    assert {rule.id for rule in RULES} == {case["rule"] for case in CASES}
    assert len(RULES) >= 45


def test_a_violation_names_kind_name_and_place() -> None:
    resources, context = stack(CASES[0])
    [violation] = evaluate(resources, context, RULES).violations
    assert violation.path.startswith("Deployment/inferstack-blue: spec.template.spec.containers[0]")


@pytest.mark.parametrize(
    "props",
    [{}, {"spec": None}, {"spec": {"template": {"spec": {"containers": [None, {}]}}}}, {"spec": "text"}, {"spec": {"rules": [None]}}],
)
@pytest.mark.parametrize("kind", ["Deployment", "HTTPRoute", "Service", "NodePool", "ManagedCluster", "Role", "ConfigMap", "Gateway"])
def test_malformed_resources_never_crash_a_rule(kind: str, props: dict[str, Any]) -> None:
    evaluate([Resource(f"kubernetes:v1:{kind}", "x", props)], Context(production=True, registries=("r/",)), RULES)


def test_what_is_not_known_yet_is_undecided_and_never_passed() -> None:
    case = {"at": "blue", "set": {"spec.template.spec.containers[0].image": "[unknown]"}}
    resources, context = stack(case)
    verdict = evaluate(resources, context, RULES)
    assert verdict.violations == ()
    assert ("image-digest", "Deployment/inferstack-blue") in verdict.undecided


def test_an_unknown_value_elsewhere_hides_nothing() -> None:
    case = {"at": "blue", "set": {"spec.template.spec.containers[0].image": "[unknown]", "spec.template.spec.hostNetwork": True}}
    resources, context = stack(case)
    assert [v.rule for v in evaluate(resources, context, RULES).violations] == ["pod-host-namespaces"]


def test_an_image_of_this_machine_may_have_a_tag_outside_production() -> None:
    image = {"spec.template.spec.containers[0].image": "localhost/runtime:machine"}
    context = {"production": False, "verified_images": None, "registries": []}
    assert "image-digest" not in broken({"at": "cache", "set": image, "context": context})
