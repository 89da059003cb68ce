"""What the GPU pools of both clouds have in common: what is refused, and the two node pools that one of them is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """One node pool of a GPU pool: `main`, or the on-demand `floor` beside nodes that may be taken away."""

    role: str
    capacity: str
    least: int
    most: int

    def name(self, pool: str) -> str:
        """The part's name in a pool of this name."""
        return pool if self.role == "main" else f"{pool}-{self.role}"


def parts(args: Mapping[str, Any]) -> list[Part]:
    """The node pools that a GPU pool with these arguments consists of."""
    capacity, floor = args.get("capacity", "on_demand"), args.get("on_demand_floor", 0)
    main = Part("main", capacity, args.get("min_nodes", 0), args.get("max_nodes", 1))
    return [main, Part("floor", "on_demand", floor, floor)] if floor and capacity != "on_demand" else [main]


def check_pool(component: str, args: Mapping[str, Any], capacities: Sequence[str]) -> None:
    """Refuse what cannot work, before anything is made; `component` is its type and name. Raises ValueError."""
    capacity, least, most = args.get("capacity", "on_demand"), args.get("min_nodes", 0), args.get("max_nodes", 1)
    if capacity not in capacities:
        raise ValueError(f"{component}: capacity is {capacity!r}: expected one of {', '.join(capacities)}")
    if (capacity == "reservation") != bool(args.get("reservation")):
        raise ValueError(f"{component}: reservation names the reservation to use exactly when capacity is reservation")
    if least > most:
        raise ValueError(f"{component}: min_nodes {least} is more than max_nodes {most}")
    if args.get("partition") and args.get("sharing"):
        raise ValueError(f"{component}: a GPU is either partitioned or shared by time, not both")
