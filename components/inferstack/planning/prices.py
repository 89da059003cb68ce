"""Prices in USD per hour, from the dated tables; a price that no source gives is None, never a guess."""

from dataclasses import dataclass
from typing import Any

from inferstack.planning import catalogue

HOURS_PER_MONTH = 730


@dataclass(frozen=True, slots=True)
class Price:
    """What one unit costs, and who says so; without a date where the environment itself states it."""

    hourly_usd: float
    source: str
    date: str | None


def machine_price(platform: str, machine: str, region: str, capacity: str, gpus: int = 0) -> Price | None:
    """One machine with `gpus` GPUs; reservations and flex-start are counted at the on-demand price, which they do not exceed.

    None where the table has no price for the region or the way of buying.
    """
    table = _table(platform)
    row = table["machines"].get(machine, {}).get(region) if table else None
    if row is None:
        return None
    column = 1 if capacity == "spot" else 0
    total = row[column]
    kind = catalogue.machines(platform)[machine]
    if kind.attaches and gpus:
        extra = table["accelerators"].get(kind.accelerator, {}).get(region)
        if extra is None or extra[column] is None:
            return None
        total = None if total is None else total + gpus * extra[column]
    return None if total is None else Price(total, table["source"], table["date"])


def stated_price(path: str, hourly_usd: float | None) -> Price | None:
    """The price of one replica that the environment states at `path`."""
    return None if hourly_usd is None else Price(hourly_usd, f"stated: {path}.replica_hourly_usd", None)


def cluster_price(platform: str) -> Price | None:
    """The control plane of one cluster."""
    table = _table(platform)
    if not table:
        return None
    row = table["cluster"]["standard"]
    return Price(row["usd"], row["source"], row["date"])


def _table(platform: str) -> Any:
    return catalogue.read(f"prices-{platform}.json") if platform in ("gke", "aks") else None
