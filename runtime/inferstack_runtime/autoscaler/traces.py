"""Load over time, recorded or generated: requests per second in equal steps."""

import csv
import io
import json
import math
import random
from dataclasses import dataclass
from itertools import pairwise

SHAPES = ("day", "burst", "ramp", "steady")


class BadTrace(ValueError):
    """A trace cannot be used."""


@dataclass(frozen=True)
class Trace:
    """Requests per second in steps of `step` seconds."""

    rates: tuple[float, ...]
    step: float

    @property
    def seconds(self) -> float:
        return self.step * len(self.rates)


def parse(text: str, source: str) -> Trace:
    """A trace from CSV (`seconds,requests_per_second`, a header line) or JSON (`[[seconds, rate], …]`). Raises BadTrace.

    Times must grow in equal steps; a time stamp stands for the step that begins with it.
    """
    rows = _json_rows(text, source) if text.lstrip().startswith("[") else _csv_rows(text, source)
    if len(rows) < 2:
        raise BadTrace(f"{source}: expected at least two rows of seconds and requests_per_second, found {len(rows)}")
    step = rows[1][0] - rows[0][0]
    for number, (before, after) in enumerate(pairwise(rows), start=2):
        if step <= 0 or abs(after[0] - before[0] - step) > 1e-3 * step:
            raise BadTrace(f"{source}: row {number}: seconds {after[0]:g}: expected {before[0] + step:g}, times in equal steps")
    for number, (_, rate) in enumerate(rows, start=1):
        if not (math.isfinite(rate) and rate >= 0):
            raise BadTrace(f"{source}: row {number}: requests_per_second {rate}: expected a number of at least 0")
    return Trace(tuple(rate for _, rate in rows), step)


def generate(shape: str, peak: float, hours: float = 24.0, seed: int = 0, step: float = 15.0) -> Trace:
    """A made-up load: `day` (one wave), `burst` (a low load with sudden peaks), `ramp`, `steady`. `peak` in requests per second."""
    if shape not in SHAPES:
        raise BadTrace(f"generated:{shape}: expected one of {', '.join(SHAPES)}")
    noise, count = random.Random(seed), max(2, int(hours * 3600 / step))  # noqa: S311 - not for secrets
    bursts = [noise.randrange(count) for _ in range(max(1, int(hours / 2)))]
    found = []
    for index in range(count):
        part = index / count
        if shape == "day":
            level = 0.1 + 0.9 * (0.5 - 0.5 * math.cos(2 * math.pi * part)) ** 2
        elif shape == "burst":
            level = 1.0 if any(0 <= index - start < 600 / step for start in bursts) else 0.15
        else:
            level = part if shape == "ramp" else 1.0
        found.append(max(0.0, peak * level * noise.gauss(1, 0.05)))
    return Trace(tuple(found), step)


def _csv_rows(text: str, source: str) -> list[tuple[float, float]]:
    reader = csv.DictReader(io.StringIO(text))
    names = reader.fieldnames or []
    if not {"seconds", "requests_per_second"} <= set(names):
        raise BadTrace(f"{source}: columns {', '.join(names) or 'none'}: expected seconds and requests_per_second")
    rows = []
    for number, row in enumerate(reader, start=1):
        try:
            rows.append((float(row["seconds"]), float(row["requests_per_second"])))
        except (TypeError, ValueError):
            raise BadTrace(f"{source}: row {number}: {dict(row)}: expected two numbers") from None
    return rows


def _json_rows(text: str, source: str) -> list[tuple[float, float]]:
    try:
        return [(float(seconds), float(rate)) for seconds, rate in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise BadTrace(f"{source}: expected [[seconds, requests_per_second], …]: {error}") from None
