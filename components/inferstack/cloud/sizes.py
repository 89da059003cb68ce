"""Sizes of managed caches, from dated data; pure."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from inferstack.environment.quantity import quantity


@cache
def _catalogue() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(files("inferstack.cloud").joinpath("data/caches.yaml").read_text(encoding="utf-8"))
    return found


def cache_size(platform: str, size: str) -> str:
    """The smallest size whose usable memory holds `size` (a quantity such as `8Gi`); raises ValueError when none does."""
    section = _catalogue()[platform]
    for name, gigabytes in section["sizes"].items():
        if gigabytes * section["usable"] * 2**30 >= quantity(size):
            return str(name)
    largest = max(section["sizes"].values()) * section["usable"]
    raise ValueError(
        f"cache.size is {size}: the managed cache of {platform} holds at most {largest:.0f}Gi in one node; use less, or cluster"
    )
