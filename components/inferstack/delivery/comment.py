"""The comment on a pull request: what it would change, cost and break. Pure: JSON objects in, Markdown out.

    body = render_comment(head_plan, base=base_plan, scans={"image": trivy_report})

The first line is a marker by which the comment is found again and edited. Everything that an author of a pull request can
influence passes through `literal`; figures are formatted from numbers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inferstack.delivery.literal import literal
from inferstack.delivery.plans import BadInput, Price, findings, prices, resource_changes
from inferstack.delivery.scans import SEVERITIES, read_scan, stops

_ROWS = (40, 15, 5, 1)  # most rows of a table; the first that keeps the comment in bounds is taken
_BYTES = 65_000  # GitHub takes 65,536 characters
_TOO_LONG = "There is more to say than a comment holds: the JSON of the plan, in the run's artifacts, has all of it."
_SIGNS = {"added": "➕", "removed": "➖", "changed": "✏️"}
_LIGHTS = {"error": "🔴", "warning": "🟡", "info": "⚪"}


def marker(environment: str) -> str:
    """The invisible first line of the comment of one environment, the same for every run; names that a stack may have stay apart."""
    return f"<!-- inferstack-plan: {re.sub(r'[^A-Za-z0-9._-]', '', environment)[:200]} -->"


def render_comment(
    head: Mapping[str, Any],
    *,
    base: Mapping[str, Any] | None = None,
    scans: Mapping[str, Mapping[str, Any]] | None = None,
    backtest: Mapping[str, Any] | None = None,
    backtest_base: Mapping[str, Any] | None = None,
) -> str:
    """Markdown of the comment.

    `head` and `base` are `inferstack plan --json` after and before the change, `scans` reports of Trivy by what was scanned,
    `backtest` and `backtest_base` are `inferstack scaling backtest --json`. Raises BadInput when one of them has another shape.
    """
    environment, parts = str(head.get("environment", "")), [""]
    for rows in _ROWS:
        parts = [marker(environment), f"## Plan of {literal(environment)}", _summary(head, base)]
        parts += _cost(prices(base, head))
        parts += _findings(head, base, rows)
        parts += _resources(head, base, rows)
        for name, report in sorted((scans or {}).items()):
            parts += _scan(name, report, rows)
        if backtest is not None:
            parts += _backtest(backtest, backtest_base)
        body = "\n\n".join(parts) + "\n"
        if len(body.encode()) <= _BYTES:
            return body
    return "\n\n".join([*parts[:3], *_cost(prices(base, head)), _TOO_LONG]) + "\n"


def _summary(head: Mapping[str, Any], base: Mapping[str, Any] | None) -> str:
    kinds = [change.kind for change in resource_changes(base, head)]
    levels = [str(row.get("severity")) for row in findings(head)]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in _SIGNS)
    verdict = "🔴 **would be refused**" if "error" in levels else "🟢 **may be deployed**"
    return f"{verdict} · resources: {counts} · errors: {levels.count('error')}, warnings: {levels.count('warning')}"


def _cost(rows: Sequence[Price]) -> list[str]:
    if not rows:
        return ["### Cost", "No price is known for what this environment uses."]
    lines = [[f"US dollars {row.label}", _usd(row.before), _usd(row.after), _delta(row.before, row.after)] for row in rows]
    return ["### Cost", _table(["", "before", "after", "change"], lines, right=3)]


def _findings(head: Mapping[str, Any], base: Mapping[str, Any] | None, most: int) -> list[str]:
    rows, known = findings(head), {_identity(row) for row in findings(base or {})}
    if not rows:
        return ["### Findings", "None."]
    lines = []
    for row in rows:
        light = _LIGHTS.get(str(row.get("severity")), _LIGHTS["error"])
        new = "new" if base is not None and _identity(row) not in known else ""
        lines.append([light, literal(row.get("rule", "")), literal(row.get("path", "")), literal(row.get("message", ""), 400), new])
    gone = len(known - {_identity(row) for row in rows})
    parts = ["### Findings", _table(["", "rule", "where", "what", ""], lines, most)]
    return [*parts, f"Gone since the base: {gone}."] if gone else parts


def _identity(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row.get("rule")), str(row.get("path")), str(row.get("message"))


def _resources(head: Mapping[str, Any], base: Mapping[str, Any] | None, most: int) -> list[str]:
    changes = resource_changes(base, head)
    if not changes:
        return ["### Resources", "No resource changes."]
    lines = []
    for change in changes:
        shown = [literal(detail) for detail in change.details[:4]]
        more = [f"and {len(change.details) - 4} more"] if len(change.details) > 4 else []
        lines.append([_SIGNS[change.kind], literal(change.stack), literal(change.type), literal(change.name), "<br>".join(shown + more)])
    return ["### Resources", _folded(f"{len(changes)} changes", _table(["", "stack", "type", "name", "what"], lines, most))]


def _scan(name: str, report: Mapping[str, Any], most: int) -> list[str]:
    hits = read_scan(report)
    if not hits:
        return [f"### Scan of {literal(name)}", "Nothing found."]
    counts = ", ".join(f"{count} {level.lower()}" for level in SEVERITIES if (count := sum(hit.severity == level for hit in hits)))
    stopping = sum(map(stops, hits))
    lines = [
        [
            literal(hit.identifier),
            hit.severity.lower(),
            literal(hit.where),
            literal(hit.fixed) if hit.fixed else "no fix",
            literal(hit.target),
        ]
        for hit in hits
    ]
    verdict = f"🔴 Stopping the pipeline: {stopping}." if stopping else "None stops the pipeline."
    table = _table(["id", "severity", "what", "mended by", "where"], lines, most)
    return [f"### Scan of {literal(name)}", f"{counts}. {verdict}", _folded(f"{len(hits)} hits", table)]


def _backtest(head: Mapping[str, Any], base: Mapping[str, Any] | None) -> list[str]:
    after, before = _policies(head), _policies(base or {"policies": []})
    columns = sorted({key for row in after.values() for key in row})
    lines = []
    for policy, row in after.items():
        cells = [literal(policy)]
        for column in columns:
            now, then = row.get(column), before.get(policy, {}).get(column)
            same = then is None or now is None or abs(now - then) < 0.005
            cells.append("—" if now is None else _number(now) if same or then is None else f"{_number(now)} ({_number(now - then, '+')})")
        lines.append(cells)
    return ["### Scaling back-test", _table(["policy", *(literal(column) for column in columns)], lines, right=len(columns))]


def _policies(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Numbers by policy and column, from `policies`: a list of objects with a `policy`."""
    rows = report.get("policies")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "policy" in row for row in rows):
        raise BadInput("back-test: `policies` must be a list of objects with `policy`")
    return {
        str(row["policy"]): {
            str(key): float(value) for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for row in rows
    }


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign},.0f}" if value == round(value) else f"{value:{sign},.2f}"


def _usd(value: float | None) -> str:
    return "—" if value is None else f"{value:,.2f}"


def _delta(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "—"
    change = after - before
    if abs(change) < 0.005:
        return "0"
    share = f" ({change / before:+.0%})" if before else ""
    return f"{change:+,.2f}{share}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int = 40, right: int = 0) -> str:
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    lines = [_line(head), _line(rule), *(_line(row) for row in rows[:most])]
    more = [f"\n… and {len(rows) - most} more."] if len(rows) > most else []
    return "\n".join(lines + more)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
