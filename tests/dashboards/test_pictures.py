"""Numbers as Grafana writes them, queries as Prometheus gets them, and boards drawn from any data or none."""

import math

import pytest

from inferstack_dashboards import BOARDS
from inferstack_dashboards.panels import to_json
from inferstack_dashboards.pictures import draw
from inferstack_dashboards.samples import Line, resolved
from inferstack_dashboards.units import shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (0.0123, "s", "12.3 ms"),
        (90, "s", "1.5 min"),
        (5400, "s", "1.5 h"),
        (172800, "s", "2 d"),
        (0.5, "percentunit", "50 %"),
        (1.0, "percentunit", "100 %"),
        (85, "celsius", "85 °C"),
        (1536, "bytes", "1.5 KiB"),
        (3 * 2**30, "bytes", "3 GiB"),
        (12345, "short", "12.3 k"),
        (0.25, "reqps", "0.25 req/s"),
        (1234.5, "currencyUSD", "$1,234"),
    ],
)
def test_a_value_is_shown_in_its_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_a_query_gets_its_interval_and_all_of_every_variable() -> None:
    assert resolved('rate(x{slot=~"$slot",tier=~"$tier"}[$__rate_interval])', "8s") == 'rate(x{slot=~".*",tier=~".*"}[8s])'
    assert resolved('x{environment=~"$environment"}', "8s", "prod") == 'x{environment=~"prod"}'


def test_a_legend_takes_labels_and_without_one_all_of_them() -> None:
    line = Line({"slot": "blue", "model": "m", "__name__": "x"}, (1.0,), (2.0,))
    assert line.named("{{slot}} of {{model}} {{absent}}") == "blue of m"
    assert line.named("") == "m, blue"


def words(figure) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in axes.texts}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_board_without_data_shows_its_panels_and_what_they_wait_for(board) -> None:
    said = words(draw(board, lambda _: []))
    assert {panel.title for panel in board.panels} | {board.title, "no data"} <= said
    assert any("dcgm-exporter" in text for text in said) == any(panel.needs == "dcgm" for panel in board.panels)


def test_a_heatmap_shows_what_came_into_each_bucket() -> None:
    board = next(board for board in BOARDS if any(panel.kind == "heatmap" for panel in board.panels))
    counts = {"0.1": (1.0, 1.0), "0.5": (1.0, 3.0), "+Inf": (1.0, 3.0)}

    def ask(expr: str) -> list[Line]:
        return (
            [Line({"le": le}, (60.0, 120.0), values) for le, values in counts.items()]
            if "by (le) " in expr and "quantile" not in expr
            else []
        )

    meshes = [
        mesh
        for axes in draw(board, ask).axes
        for mesh in axes.collections
        if hasattr(mesh, "get_array") and type(mesh).__name__ == "QuadMesh"
    ]
    assert meshes
    assert meshes[0].get_array().tolist() == [[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]
    assert math.isclose(meshes[0].get_array().max(), 2.0)


def test_every_panel_of_a_board_has_the_same_time_axis_and_a_slot_its_colour() -> None:
    board = next(board for board in BOARDS if board.uid == "inferstack-releases")

    def ask(expr: str) -> list[Line]:
        late = "inferstack_ready" in expr
        return [Line({"slot": "green"}, (90.0, 120.0) if late else (0.0, 60.0), (1.0, 1.0))]

    drawn = [axes for axes in draw(board, ask).axes if axes.lines and len(axes.get_xticks())]
    assert len(drawn) > 5
    assert len({axes.get_xlim() for axes in drawn}) == 1
    assert {line.get_color() for axes in drawn for line in axes.lines if line.get_label() == "green"} == {"#2f9e5f"}


def test_grafana_gives_a_slot_its_own_colour_too() -> None:
    board = next(board for board in BOARDS if board.uid == "inferstack-releases")
    panel = next(panel for panel in to_json(board, "")["panels"] if panel["title"] == "Requests")
    found = {rule["matcher"]["options"]: rule["properties"][0]["value"]["fixedColor"] for rule in panel["fieldConfig"]["overrides"]}
    assert found["/^blue$/"] == "blue"
    assert found["/^green$/"] == "green"
