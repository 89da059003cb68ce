"""The guide's dollars are those of the plan."""

import re
from pathlib import Path

import pytest

from inferstack.environment import load_environment
from inferstack.planning import cost

ROOT = Path(__file__).parents[3]
ROWS = re.findall(
    r"^\| `([a-z-]+)` \|[^|]*\| ([\d.,]+) \| ([\d.,]+) \| ([\d.,]+) \|$", (ROOT / "docs/guide/clouds.md").read_text(encoding="utf-8"), re.M
)


def test_every_cloud_preset_stands_in_the_guide() -> None:
    assert [row[0] for row in ROWS] == [f"{stage}-{cloud}" for stage in ("dev", "staging", "prod") for cloud in ("gke", "aks")]


def test_the_dollars_until_the_first_token_are_the_expected_minutes_at_the_plans_price() -> None:
    text = (ROOT / "docs/guide/clouds.md").read_text(encoding="utf-8")
    minutes = re.findall(r"\*\*(\d+)–(\d+)\*\*", text)
    dollars = re.findall(r"\*\*([\d.]+)–([\d.]+)\*\* for `([a-z-]+)`", text)
    assert [name for *_, name in dollars] == ["dev-gke", "dev-aks"]
    assert len(minutes) == len(dollars)
    for (fewest, most), (least, dearest, name) in zip(minutes, dollars, strict=True):
        hourly = cost(load_environment(ROOT / "stacks", name)).hourly_usd
        assert hourly is not None
        assert (float(least), float(dearest)) == pytest.approx((int(fewest) / 60 * hourly, int(most) / 60 * hourly), abs=0.03)


@pytest.mark.parametrize(("name", "hourly", "monthly", "promoting"), ROWS)
def test_the_dollars_of_a_preset_are_computed(name: str, hourly: str, monthly: str, promoting: str) -> None:
    found = cost(load_environment(ROOT / "stacks", name))
    assert found.hourly_usd is not None
    assert found.monthly_usd is not None
    assert found.during_promotion_hourly_usd is not None
    shown = (f"{found.hourly_usd:.2f}", f"{found.monthly_usd:,.0f}", f"{found.during_promotion_hourly_usd:.2f}")
    assert shown == (hourly, monthly, promoting)
