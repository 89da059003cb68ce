"""What a committed query names: series and windows, found by parsing PromQL. Shared by the tests of boards, rules and alerts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "dashboards"
_TIMES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}


def plain(expr: str) -> str:
    """A board's query as Prometheus would get it, with every variable set to All."""
    for name, value in _TIMES.items():
        expr = expr.replace(name, value)
    return expr.replace("$environment", ".*").replace("$slot", ".*").replace("$model", ".*").replace("$tier", ".*")


def parse(expr: str) -> Any:
    """The syntax tree; raises ValueError where the query is no PromQL."""
    return promql.parse(plain(expr))


def nodes(tree: Any) -> Iterator[Any]:
    """Every node, the root first."""
    yield tree
    for name in ("lhs", "rhs", "expr", "vector_selector", "vs", "param"):
        child = getattr(tree, name, None)
        if child is not None and not isinstance(child, str):
            yield from nodes(child)
    for child in getattr(tree, "args", None) or ():
        yield from nodes(child)


def series(expr: str) -> set[str]:
    """Names of the series that a query reads."""
    found = {node.name for node in nodes(parse(expr)) if isinstance(node, promql.VectorSelector)}
    assert None not in found, f"a selector without a metric name: {expr}"
    return found


def board_queries() -> dict[str, str]:
    """Query by where it stands, in the committed boards."""
    found: dict[str, str] = {}
    for path in sorted(OUTPUT.glob("grafana/*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                found[f"board {board['title']!r}, panel {panel['title']!r}, query {target['refId']}"] = target["expr"]
        for annotation in board["annotations"]["list"]:
            found[f"board {board['title']!r}, annotation {annotation['name']!r}"] = annotation["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                expr = variable["definition"].removeprefix("label_values(").partition(",")[0]
                found[f"board {board['title']!r}, variable {variable['name']!r}"] = expr
    return found


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of `rules/<name>.yaml`."""
    text = (OUTPUT / "rules" / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[2]
    return [rule for group in json.loads(text)["groups"] for rule in group["rules"]]
