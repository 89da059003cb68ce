"""Boards as typed data, and their Grafana JSON. Pure.

Units are Grafana's (`s`, `reqps`, `percentunit`, `bytes`, `short`, `currencyUSD`, …). The grid is 24 wide; panels flow left to right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inferstack_dashboards.external import PROMOTION_PHASE
from inferstack_runtime.metrics import IDENTITY, REQUESTS

Kind = Literal["timeseries", "stat", "heatmap", "table"]
DATASOURCE: Mapping[str, str] = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39
"""Schema of dashboards of Grafana 10.2 and later; newer versions migrate it when they load it."""
TABLE_VALUE = "replicas"
"""Heading of a table's value: tables count replicas."""
FIXED_COLOURS = ((r"^blue$", "blue"), (r"^green$", "green"), (r"^5\d\d$", "red"))
"""Lines whose name decides their colour: without it Grafana draws the first line, slot blue, in green. (pattern, colour of Grafana)"""
_GRID = 24


@dataclass(frozen=True)
class Query:
    """One query; `legend` names its series, with `{{label}}` parts."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture. `needs` says which exporter it waits for besides the runtime; `steps` colours values from a bound on."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    needs: Literal["", "dcgm", "kubernetes", "prices", "promotion", "autoscaler"] = ""
    width: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    runbooks: tuple[str, ...] = ()
    """Alerts that watch what the panel shows."""
    stacked: bool = False
    most: float | None = None

    @property
    def height(self) -> int:
        return 4 if self.kind == "stat" else 8


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """One dashboard; `uid` stands in its address and never changes."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[str, ...] = ("environment", "slot", "model", "tier")
    tags: tuple[str, ...] = field(default=("inferstack",))

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


_VARIABLES = {
    "environment": (IDENTITY, "Environment"),
    "slot": (IDENTITY, "Slot"),
    "model": (IDENTITY, "Model"),
    "tier": (REQUESTS, "Tier of the key"),
}


def to_json(board: Board, runbooks: str) -> dict[str, Any]:
    """The dashboard object; `runbooks` is the address of the folder with the runbooks, with a closing slash."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": list(board.tags),
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "Boards",
                "tags": ["inferstack"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
                "icon": "external link",
            }
        ],
        "templating": {"list": [_datasource(), *(_variable(name) for name in board.variables)]},
        "annotations": {"list": _annotations()},
        "panels": list(_laid_out(board, runbooks)),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1}


def _variable(name: str) -> dict[str, Any]:
    metric, label = _VARIABLES[name]
    query = f"label_values({metric.name}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": dict(DATASOURCE),
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def _annotations() -> list[dict[str, Any]]:
    """A line where a slot begins to serve a new generation, the phases of a promotion, and one while an alert fires."""
    labels = "environment, slot, generation, model, quantization"
    identity = f'{IDENTITY.name}{{environment=~"$environment",slot=~"$slot"}}'
    return [
        {
            "name": "Promotions",
            "datasource": dict(DATASOURCE),
            "enable": True,
            "iconColor": "blue",
            "expr": f"group by ({labels}) ({identity}) unless group by ({labels}) ({identity} offset 1m)",
            "step": "30s",
            "titleFormat": "{{slot}}: generation {{generation}}",
            "textFormat": "{{model}} {{quantization}}",
            "useValueForTime": False,
        },
        {
            "name": "Phases",
            "datasource": dict(DATASOURCE),
            "enable": True,
            "iconColor": "purple",
            "expr": f'{PROMOTION_PHASE.name}{{environment=~"$environment",phase!="idle"}} == 1',
            "step": "30s",
            "titleFormat": "{{phase}}",
            "textFormat": "{{environment}}",
            "useValueForTime": False,
        },
        {
            "name": "Alerts",
            "datasource": dict(DATASOURCE),
            "enable": True,
            "iconColor": "red",
            "expr": 'ALERTS{alertstate="firing",severity=~"page|ticket"}',
            "step": "30s",
            "titleFormat": "{{alertname}}",
            "textFormat": "{{severity}} {{slot}}",
            "useValueForTime": False,
        },
    ]


def _laid_out(board: Board, runbooks: str) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for row in board.rows:
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": _place(0, top, _GRID, 1)}
        number, top, left, tallest = number + 1, top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > _GRID:
                top, left, tallest = top + tallest, 0, 0
            yield _panel(panel, number, _place(left, top, panel.width, panel.height), runbooks)
            number, left, tallest = number + 1, left + panel.width, max(tallest, panel.height)
        top += tallest


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int], runbooks: str) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": _custom(panel)}
    if panel.most is not None:
        defaults["max"] = panel.most
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps + [{"color": colour, "value": value} for value, colour in panel.steps]}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": dict(DATASOURCE),
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
        "links": [{"title": f"Runbook: {name}", "url": f"{runbooks}{name}.md", "targetBlank": True} for name in panel.runbooks],
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "datasource": dict(DATASOURCE),
                "format": {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series"),
                "instant": panel.kind == "table",
                "range": panel.kind != "table",
            }
            for index, query in enumerate(panel.queries)
        ],
        **({"transformations": [_without_time()]} if panel.kind == "table" else {}),
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind != "timeseries":
        return []
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/{pattern}/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for pattern, colour in FIXED_COLOURS
    ]


def _without_time() -> dict[str, Any]:
    """A table shows what is there now: no moment, and the count under its own name."""
    return {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": TABLE_VALUE}}}


def _custom(panel: Panel) -> dict[str, Any]:
    if panel.kind != "timeseries":
        return {}
    lines = "line" if panel.steps else "off"
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    fill = 30 if panel.stacked else 10
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": fill,
        "showPoints": "never",
        "stacking": stacking,
        "thresholdsStyle": {"mode": lines},
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value", "graphMode": "area"}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64}}
    if panel.kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi", "sort": "desc"}}
