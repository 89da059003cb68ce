"""Kubernetes quantities as numbers."""

import re

_FACTORS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def number(quantity: str) -> float:
    """The value of a quantity in base units (bytes, cores): `"512Mi"` is 536870912.0, `"500m"` is 0.5; raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", quantity)
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{quantity!r} is not a Kubernetes quantity such as 500m, 2 or 1.5Gi")
    return float(match[1]) * _FACTORS[match[2]]
