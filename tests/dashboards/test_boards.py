"""The boards keep the rules that the public linters of dashboards check, and a few more."""

import json
import re
from typing import Any

import pytest

from inferstack_dashboards import ALERTS
from inferstack_dashboards.external import EXTERNAL
from inferstack_runtime.autoscaler.metrics import CATALOGUE as AUTOSCALER
from tests.dashboards.promql import OUTPUT, board_queries, parse

BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(OUTPUT.glob("grafana/*.json"))}
PANELS = [
    pytest.param(board, panel, id=f"{uid}: {panel['title']}")
    for uid, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
WITHOUT_SLOT = {metric.name for metric in (*EXTERNAL, *AUTOSCALER) if "slot" not in metric.labels}
UNITS = {"short", "s", "reqps", "ops", "percent", "percentunit", "bytes", "celsius", "watt", "currencyUSD"}


def test_the_boards_of_the_kit_are_there() -> None:
    titles = {board["title"] for board in BOARDS.values()}
    assert titles == {
        "LLM System Overview",
        "Model Performance",
        "GPU Utilization",
        "Cost Tracking",
        "Auto-scaling",
        "Request Analytics",
        "Releases",
    }


@pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
def test_a_board_has_a_data_source_variable_filters_annotations_and_cannot_be_edited(board: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"environment", "slot", "model", "tier"} <= set(variables)
    assert all(variable.get("allValue", ".*") == ".*" for variable in variables.values())
    assert {annotation["name"] for annotation in board["annotations"]["list"]} == {"Promotions", "Phases", "Alerts"}
    assert board["editable"] is False
    assert board["description"]
    assert re.fullmatch(r"[a-z-]{1,40}", board["uid"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
def test_panels_stand_beside_each_other_and_never_on_each_other(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_has_title_description_unit_data_source_and_queries(board: dict[str, Any], panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    for target in (panel, *panel["targets"]):
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_queries_are_promql_with_rates_of_counters_over_the_rate_interval(board: dict[str, Any], panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        expr = target["expr"]
        assert set(re.findall(r"\[([^\]]*)\]", expr)) <= {"$__rate_interval"}
        parse(expr)
        names = re.findall(r"\b([a-zA-Z_:][\w:]*_total)\b", expr)
        assert len(names) == len(re.findall(r"\brate\(\s*[a-zA-Z_:][\w:]*_total\b", expr)), f"a counter without its rate: {expr}"


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_queries_of_the_runtime_carry_the_filters_of_the_board(board: dict[str, Any], panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for name, matchers in re.findall(r"\b((?:inferstack|process)_\w+)(\{[^}]*\})?", target["expr"]):
            assert 'environment=~"$environment"' in matchers, f"{name} in {target['expr']}"
            if name not in WITHOUT_SLOT:
                assert 'slot=~"$slot"' in matchers


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_quantile_keeps_le_and_a_heatmap_shows_buckets(board: dict[str, Any], panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        if "histogram_quantile" in target["expr"]:
            assert re.search(r"sum by \(le\b", target["expr"])
        if panel["type"] == "heatmap":
            assert target["format"] == "heatmap"
            assert "_bucket" in target["expr"]


def test_every_link_leads_to_the_runbook_of_an_alert() -> None:
    names = {alert.name for alert in ALERTS}
    links = {link["url"] for board in BOARDS.values() for panel in board["panels"] for link in panel.get("links", ())}
    assert links
    for link in links:
        assert link.rpartition("/")[2].removesuffix(".md") in names, link


def test_processes_without_a_slot_are_no_line_of_a_board() -> None:
    """Each process exposes `process_…`; the variable's All, `.*`, matches a label that is not there."""
    found = {where: expr for where, expr in board_queries().items() if "process_" in expr}
    assert found
    assert not [where for where, expr in found.items() if expr.count("process_") != expr.count('slot!=""')]
