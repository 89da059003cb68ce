"""Results as JSON, CSV and a plot."""

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def flat(row: Row) -> dict[str, Any]:
    """One level: `ttft.p50` for nested mappings; sequences joined."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            result |= {f"{key}.{inner}": item for inner, item in flat(value).items()}
        else:
            result[key] = "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return result


def write(path: Path, about: Row, rows: Sequence[Row]) -> list[Path]:
    """`path`.json with everything, `path`.csv with one line per row, `path`.png where matplotlib is installed; returns what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(".json"), path.with_suffix(".csv")]
    written[0].write_text(json.dumps({"about": about, "rows": list(rows)}, indent=1) + "\n")
    lines = [flat(row) for row in rows]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    with written[1].open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(lines)
    picture = path.with_suffix(".png")
    if _plot(picture, rows):
        written.append(picture)
    return written


def _plot(path: Path, rows: Sequence[Row]) -> bool:
    """Tokens per second and median time to first token over concurrency, a line per server; False without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for server in dict.fromkeys(str(row["server"]) for row in rows):
        own = [row for row in rows if row["server"] == server and row.get("output_tokens_per_second")]
        levels = sorted({int(row["clients"]) for row in own})
        speed = [[float(row["output_tokens_per_second"]) for row in own if row["clients"] == level] for level in levels]
        first = [[float(row["ttft"].get("p50", 0)) * 1000 for row in own if row["clients"] == level] for level in levels]
        for axis, values in ((axes[0], speed), (axes[1], first)):
            axis.plot(levels, [statistics.median(items) for items in values], marker="o", label=server)
    for axis, label in ((axes[0], "output tokens per second"), (axes[1], "time to first token, p50, ms")):
        axis.set_xlabel("concurrent clients")
        axis.set_ylabel(label)
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True
