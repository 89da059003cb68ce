"""Stacks of pull requests end in time, and no other stack is ever touched."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferstack.delivery.plans import BadInput
from inferstack.delivery.stacks import over, stack_name

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def stack(name: str, last: str | None = "2026-11-21T11:00:00.000Z", busy: bool = False) -> dict[str, object]:
    return {"name": name, "current": False, "updateInProgress": busy, **({"lastUpdate": last} if last else {})}


@pytest.mark.parametrize(
    ("row", "closed", "gone"),
    [
        (stack("pr-1"), [], False),
        (stack("pr-1"), ["1"], True),
        (stack("pr-1"), ["11"], False),
        (stack("pr-1", "2026-11-20T12:00:00.000Z"), [], True),
        (stack("pr-1", "2026-11-20T12:00:01.000Z"), [], False),
        (stack("pr-1", "2026-11-20T14:00:00+02:00"), [], True),
        (stack("pr-1", "2026-11-01T00:00:00.000Z", busy=True), [], False),
        (stack("pr-1", None), [], True),
        (stack("organization/inferstack/pr-7", "2026-11-01T00:00:00.000Z"), [], True),
        (stack("prod", "2020-01-01T00:00:00.000Z"), [], False),
        (stack("pr-1-blue", "2020-01-01T00:00:00.000Z"), [], False),
        (stack("pr-01", "2020-01-01T00:00:00.000Z"), [], False),
    ],
)
def test_a_stack_goes_when_its_time_is_over_or_its_request_closed(row: dict[str, object], closed: list[str], gone: bool) -> None:
    assert over([row], NOW, 24, closed) == ([row["name"]] if gone else [])


@given(st.text())
def test_only_stacks_of_pull_requests_are_ever_named(name: str) -> None:
    found = over([stack(name, "2000-01-01T00:00:00Z")], NOW, 1)
    assert found == [] or name.rpartition("/")[2].removeprefix("pr-").isdigit()


def test_a_name_is_made_of_a_number_only() -> None:
    assert stack_name("12") == "pr-12"
    for wrong in ("", "0", "-1", "1a", "1 2", "$(id)", "prod"):
        with pytest.raises(BadInput):
            stack_name(wrong)


def test_a_time_without_zone_is_refused_rather_than_guessed() -> None:
    with pytest.raises(BadInput, match="time zone"):
        over([stack("pr-1", "2026-11-20T12:00:00")], NOW, 1)
