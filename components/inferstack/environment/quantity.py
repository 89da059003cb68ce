"""Kubernetes quantities as numbers."""

import re

_FACTORS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def quantity(text: str) -> float:
    """The value in base units (bytes, cores); raises ValueError.

    >>> quantity("500m"), quantity("2Gi")
    (0.5, 2147483648.0)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", text)
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 1.5Gi")
    return float(match[1]) * _FACTORS[match[2]]
