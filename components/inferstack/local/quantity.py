"""Kubernetes quantities."""

import re

_UNITS = {"m": 1e-3, "k": 1e3, "Ki": 2**10, "M": 1e6, "Mi": 2**20, "G": 1e9, "Gi": 2**30, "T": 1e12, "Ti": 2**40}


def quantity(text: str) -> int:
    """A quantity (`512Mi`, `1.5G`) as a whole number of its base unit; raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?", text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 512Mi")
    return int(float(match[1]) * _UNITS.get(match[2] or "", 1))
