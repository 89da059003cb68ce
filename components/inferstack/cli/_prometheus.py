"""Asks a Prometheus for single numbers."""

import math
from typing import Any

import httpx


class Unreachable(Exception):
    """Prometheus does not answer, or not with an answer."""


def vector(address: str, query: str, seconds: float = 5.0) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each series that an instant query gives; values that are no number are left out. Raises Unreachable."""
    try:
        answer = httpx.get(f"{address.rstrip('/')}/api/v1/query", params={"query": query}, timeout=seconds)
        body: Any = answer.raise_for_status().json()
        rows = [(row["metric"], float(row["value"][1])) for row in body["data"]["result"]]
    except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
        raise Unreachable(f"{address}: {error}") from None
    return [(labels, value) for labels, value in rows if math.isfinite(value)]


def number(address: str, query: str) -> float | None:
    """The value of a query with one series; None where it has none. Raises Unreachable."""
    rows = vector(address, query)
    return rows[0][1] if rows else None
