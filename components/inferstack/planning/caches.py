"""Sizes of managed caches, from dated data."""

from inferstack.environment.quantity import quantity
from inferstack.planning import catalogue

CACHE_OVERHEAD = 1.25
"""Memory of the pod of a cache in the cluster beside its data: client buffers and fragmentation."""


def cache_size(platform: str, size: str) -> str:
    """The smallest size whose usable memory holds `size` (a quantity such as `8Gi`); raises ValueError when none does."""
    section = catalogue.read("caches.yaml")[platform]
    for name, gigabytes in section["sizes"].items():
        if gigabytes * section["usable"] * 2**30 >= quantity(size):
            return str(name)
    raise ValueError(f"cache.size is {size}: the managed cache of {platform} holds at most {largest_cache(platform)}Gi in one node")


def largest_cache(platform: str) -> int:
    """Usable memory of the largest size, in whole GiB."""
    section = catalogue.read("caches.yaml")[platform]
    return int(max(section["sizes"].values()) * section["usable"])
