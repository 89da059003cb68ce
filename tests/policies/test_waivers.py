from datetime import date

import pytest

from inferstack_policies import Violation, Waiver, waive

TODAY = date(2026, 11, 21)
VIOLATION = Violation(
    "image-digest", "error", "Deployment/inferstack-blue: spec.template.spec.containers[0].image", "a tag.", "use a digest."
)


def waiver(**changes: str) -> Waiver:
    return Waiver(**{"rule": "image-digest", "reason": "vendor has no digest", "owner": "ops", "expires": "2026-12-31", **changes})


@pytest.mark.parametrize("path", ["*", "Deployment/*", "Deployment/inferstack-blue"])
def test_a_waiver_accepts_its_rule_on_its_resource(path: str) -> None:
    left = waive([VIOLATION], [waiver(path=path)], TODAY)
    assert left.standing == ()
    assert left.accepted == ((VIOLATION, waiver(path=path)),)


@pytest.mark.parametrize(
    "changes",
    [{"rule": "image-registry"}, {"path": "Deployment/inferstack-green"}, {"path": "StatefulSet/*"}, {"path": "Deployment/inferstack"}],
)
def test_a_waiver_accepts_nothing_else(changes: dict[str, str]) -> None:
    assert waive([VIOLATION], [waiver(**changes)], TODAY).standing == (VIOLATION,)


def test_an_expired_waiver_accepts_nothing_and_is_named() -> None:
    left = waive([VIOLATION], [waiver(expires="2026-11-20")], TODAY)
    assert left.standing == (VIOLATION,)
    assert left.expired == (waiver(expires="2026-11-20"),)


def test_a_waiver_holds_on_its_last_day() -> None:
    assert waive([VIOLATION], [waiver(expires="2026-11-21")], TODAY).standing == ()
