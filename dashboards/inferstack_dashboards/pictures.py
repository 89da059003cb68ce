"""Each board as a PNG from live data, laid out as Grafana lays it out.  python -m inferstack_dashboards.pictures ADDRESS MINUTES FOLDER

Needs matplotlib. A panel without data says so, and which exporter it waits for.
"""

import itertools
import re
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from inferstack_dashboards.boards import BOARDS
from inferstack_dashboards.panels import FIXED_COLOURS, TABLE_VALUE, Board, Panel, to_json
from inferstack_dashboards.samples import Ask, Line, prometheus
from inferstack_dashboards.units import shown, unit_size

_INCHES_WIDE = 18.0
_INCHES_A_ROW = 0.36
"""Height of one row of Grafana's grid, of which a panel takes 8 and a single figure 4."""
_DPI = 72
_INK, _FAINT, _PAPER = "#1f2430", "#8a90a0", "#f4f5f7"
_COLOURS = ("#2b6cb0", "#2f9e5f", "#c9711b", "#8250c4", "#c0392b", "#0f8b8d", "#7a6a1f", "#d6498f")
_FIXED = {"blue": _COLOURS[0], "green": _COLOURS[1], "red": _COLOURS[4]}
_LONGEST = 32
"""Characters of a legend."""
_EXPORTERS = {
    "dcgm": "NVIDIA's dcgm-exporter",
    "kubernetes": "kube-state-metrics",
    "prices": "a price table",
    "promotion": "the exporter of promotions",
    "autoscaler": "this kit's autoscaler",
}


def draw(board: Board, ask: Ask) -> Figure:
    """The board as a figure."""
    laid_out = to_json(board, "")["panels"]
    rows = [panel for panel in laid_out if panel["type"] == "row"]
    places = [panel["gridPos"] for panel in laid_out if panel["type"] != "row"]
    deep = max(place["y"] + place["h"] for place in places)
    figure = Figure(figsize=(_INCHES_WIDE, (deep + 2) * _INCHES_A_ROW), facecolor=_PAPER)
    grid = GridSpec(deep + 2, 24, figure, left=0.012, right=0.988, top=0.995, bottom=0.005, wspace=0, hspace=0)
    _words(figure, grid[0:2, :], board.title, 19, "bold", 0.62)
    _words(figure, grid[0:2, :], board.description, 11, "normal", 0.14, _FAINT)
    for row in rows:
        _words(figure, grid[row["gridPos"]["y"] + 2, :], row["title"], 12, "bold", 0.4)
    answers = [[(query.legend, line) for query in panel.queries for line in ask(query.expr)] for panel in board.panels]
    moments = [moment for lines in answers for _, line in lines for moment in line.times]
    span = (min(moments, default=0.0), max(moments, default=0.0))
    for panel, place, lines in zip(board.panels, places, answers, strict=True):
        top = place["y"] + 2
        _panel(figure, grid[top : top + place["h"], place["x"] : place["x"] + place["w"]], panel, lines, span)
    return figure


def write(folder: Path, ask: Ask) -> list[Path]:
    """A PNG of every board under `folder`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for board in BOARDS:
        paths.append(folder / f"{board.uid.removeprefix('inferstack-')}.png")
        draw(board, ask).savefig(paths[-1], dpi=_DPI, metadata={"Software": None})
    return paths


def _words(figure: Figure, place: Any, text: str, size: float, weight: str, at: float, colour: str = _INK) -> None:
    axes = figure.add_subplot(place)
    axes.axis("off")
    axes.text(0.004, at, text, fontsize=size, fontweight=weight, color=colour, va="center", transform=axes.transAxes)


def _panel(figure: Figure, place: Any, panel: Panel, lines: list[tuple[str, Line]], span: tuple[float, float]) -> None:
    """A white card with the title, and within it what the panel shows of the board's `span` of time."""
    card = figure.add_subplot(place)
    card.axis("off")
    box = card.get_position()
    pad_x, pad_y = 0.05 / _INCHES_WIDE, 0.05 / figure.get_figheight()
    card.set_position((box.x0 + pad_x, box.y0 + pad_y, box.width - 2 * pad_x, box.height - 2 * pad_y))
    card.patch.set_facecolor("white")
    card.axis("on")
    card.set(xticks=[], yticks=[])
    for spine in card.spines.values():
        spine.set_color("#d9dce3")
    inches = card.get_position().height * figure.get_figheight()
    card.text(
        0.05 * 8 / panel.width / 3,
        1 - 0.2 / inches,
        panel.title,
        fontsize=10.5,
        fontweight="bold",
        color=_INK,
        va="center",
        transform=card.transAxes,
    )
    if not lines:
        card.text(0.5, 0.48, "no data", fontsize=12, color=_FAINT, ha="center", transform=card.transAxes)
        if panel.needs:
            card.text(0.5, 0.36, f"needs {_EXPORTERS[panel.needs]}", fontsize=9, color=_FAINT, ha="center", transform=card.transAxes)
        return
    if panel.kind == "stat":
        _stat(card, panel, [line for _, line in lines])
    elif panel.kind == "table":
        _table(card, panel, [line for _, line in lines])
    elif panel.kind == "heatmap":
        _heatmap(_inner(figure, card, span), panel, [line for _, line in lines])
    else:
        _lines(_inner(figure, card, span), panel, lines)


def _inner(figure: Figure, card: Axes, span: tuple[float, float]) -> Axes:
    """Axes within a card, with room for the title, the labels and the legend. All of a board have the same time axis."""
    box, tall = card.get_position(), figure.get_figheight()
    left, right, top, bottom = 0.68 / _INCHES_WIDE, 0.14 / _INCHES_WIDE, 0.42 / tall, 0.64 / tall
    axes = figure.add_axes((box.x0 + left, box.y0 + bottom, box.width - left - right, box.height - top - bottom))
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color("#c5c9d3")
    axes.tick_params(colors=_FAINT, labelsize=8, length=2)
    locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis_date("UTC")
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
    if span[0] < span[1]:
        axes.set_xlim(*_moments(span))
    return axes


def _moments(times: Iterable[float]) -> list[float]:
    """Seconds since 1970 as the time axis counts them."""
    return [float(date2num(datetime.fromtimestamp(moment, UTC))) for moment in times]  # type: ignore[no-untyped-call]


def _lines(axes: Axes, panel: Panel, lines: list[tuple[str, Line]]) -> None:
    floor: dict[float, float] = {}
    ordered = sorted(lines, key=lambda pair: pair[1].named(pair[0]))
    colours = _colours([line.named(legend) for legend, line in ordered])
    for (legend, line), colour in zip(ordered, colours, strict=True):
        moments = _moments(line.times)
        under = [floor.get(moment, 0.0) if panel.stacked else 0.0 for moment in line.times]
        over = [base + value for base, value in zip(under, line.values, strict=True)]
        axes.plot(moments, over, color=colour, linewidth=1.4, label=line.named(legend), clip_on=False)
        axes.fill_between(moments, under, over, color=colour, alpha=0.35 if panel.stacked else 0.08, linewidth=0)
        floor |= dict(zip(line.times, over, strict=True))
    for value, colour in panel.steps:
        axes.axhline(value, color=colour, linewidth=0.8, linestyle="--")
    highest = max([max(line.values) for _, line in lines] + (list(floor.values()) if panel.stacked else [])) or 1.0
    top = panel.most * 1.04 if panel.most else highest * 1.12
    size = unit_size(top, panel.unit)
    axes.set_ylim(0, top)
    axes.set_yticks([tick * size for tick in MaxNLocator(5).tick_values(0, top / size) if tick * size <= top])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, panel.unit)))
    axes.grid(axis="y", color="#e8eaef", linewidth=0.7)
    _legend(axes)


def _colours(names: list[str]) -> list[str]:
    """A colour for each line: the fixed one of its name, else the next that is free."""
    fixed = {name: _FIXED[colour] for name in names for pattern, colour in FIXED_COLOURS if re.search(pattern, name)}
    free = itertools.cycle([colour for colour in _COLOURS if colour not in fixed.values()])
    return [fixed.get(name) or next(free) for name in names]


def _legend(axes: Axes) -> None:
    """Two lines below the picture, as far as they have room."""
    handles, labels = axes.get_legend_handles_labels()
    room = axes.get_position().width * _INCHES_WIDE - 0.3
    rows: list[list[tuple[Any, str]]] = [[]]
    used = 0.0
    for index, (handle, label) in enumerate(zip(handles, labels, strict=True)):
        wide = 0.36 + 0.07 * min(len(label), _LONGEST)
        if used + wide > room and rows[-1]:
            if len(rows) == 2:
                axes.text(
                    1.0, _below(axes, 0.51), f"+ {len(labels) - index}", fontsize=8, color=_FAINT, ha="right", transform=axes.transAxes
                )
                break
            rows.append([])
            used = 0.0
        rows[-1].append((handle, label[:_LONGEST]))
        used += wide
    for number, row in enumerate(filter(None, rows)):
        legend = axes.legend(
            *zip(*row, strict=True),
            loc="upper left",
            bbox_to_anchor=(-0.02, _below(axes, 0.16 + 0.16 * number)),
            ncols=len(row),
            fontsize=8,
            frameon=False,
            labelcolor=_INK,
            handlelength=0.9,
            columnspacing=0.9,
            handletextpad=0.4,
        )
        if number + 1 < len(rows):
            axes.add_artist(legend)  # the next one takes its place


def _below(axes: Axes, inches: float) -> float:
    """A place so far below the axes, in their own coordinates."""
    return -inches / (axes.get_position().height * axes.get_figure(root=True).get_figheight())  # type: ignore[union-attr]


def _heatmap(axes: Axes, panel: Panel, lines: list[Line]) -> None:
    """What came into each bucket: the cumulative rates less those of the bucket below."""
    buckets = sorted(lines, key=lambda line: float(line.labels["le"]))
    times = sorted({moment for line in buckets for moment in line.times})
    below = dict.fromkeys(times, 0.0)
    cells = []
    for line in buckets:
        here = below | dict(zip(line.times, line.values, strict=True))
        cells.append([max(0.0, here[moment] - below[moment]) for moment in times])
        below = here
    filled = [index for index, row in enumerate(cells) if any(row)] or [0]
    first, last = max(0, filled[0] - 1), min(len(cells), filled[-1] + 3)
    cells, buckets = cells[first:last], buckets[first:last]
    moments = _moments(times)
    axes.pcolormesh(moments, range(len(cells)), cells, cmap="Oranges", shading="nearest")
    axes.set_yticks(range(len(buckets)), [_edge(line.labels["le"], panel.unit) for line in buckets])
    axes.tick_params(axis="y", labelsize=7.5)


def _edge(le: str, unit: str) -> str:
    return "more" if le == "+Inf" else f"≤ {shown(float(le), unit)}"


def _stat(card: Axes, panel: Panel, lines: list[Line]) -> None:
    line = lines[0]
    colour = next((name for bound, name in reversed(panel.steps) if line.values[-1] >= bound), "#2f9e5f")
    spark = card.inset_axes((0.02, 0.03, 0.96, 0.3))
    spark.axis("off")
    spark.fill_between(_moments(line.times), line.values, color=colour, alpha=0.2, linewidth=0)
    spark.plot(_moments(line.times), line.values, color=colour, linewidth=1.0)
    spark.set_ylim(0, max(*line.values, 1e-9) * 1.15)
    card.text(0.5, 0.53, shown(line.values[-1], panel.unit), fontsize=22, color=colour, ha="center", va="center", transform=card.transAxes)


def _table(card: Axes, panel: Panel, lines: list[Line]) -> None:
    """The labels of what there is at the end."""
    last = max(line.times[-1] for line in lines)
    rows = [line for line in lines if line.times[-1] == last]
    names = sorted({name for line in rows for name in line.labels})
    cells = [[line.labels.get(name, "") for name in names] + [shown(line.values[-1], panel.unit)] for line in rows]
    table = card.table(
        cells,
        colLabels=[*names, TABLE_VALUE],
        cellLoc="left",
        bbox=Bbox.from_bounds(0.02, 0.82 - 0.13 * (len(cells) + 1), 0.96, 0.13 * (len(cells) + 1)),
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.auto_set_column_width(list(range(len(names) + 1)))
    for cell in table.get_celld().values():
        cell.set_edgecolor("#e2e4ea")


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    address, minutes, folder = arguments
    end = time.time()
    start = end - float(minutes) * 60
    for path in write(Path(folder), prometheus(address.rstrip("/"), start, end, (end - start) / 120, "2m")):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
