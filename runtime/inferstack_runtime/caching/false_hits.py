"""The false-hit rate of the semantic tier: estimate, interval, and the threshold that follows from it."""

import math

OFF = 1.01
_STEP = 0.01
_LEAST_CHECKED = 20
_Z = 1.959964
"""Quantile of the normal distribution for 95 %."""


class FalseHits:
    """Counts checked hits since the threshold last moved.

    When more than `most` of at least 20 were false, the threshold rises by 0.01; past 0.99 the tier is off.
    """

    def __init__(self, threshold: float, most: float) -> None:
        self.threshold = threshold
        self._most = most
        self.checked = 0
        self.false = 0

    @property
    def ratio(self) -> float:
        return self.false / self.checked if self.checked else 0.0

    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate (Wilson 1927); 0 to 1 while nothing was checked."""
        return wilson(self.false, self.checked)

    def add(self, false: bool) -> None:
        """Count one checked hit."""
        self.checked += 1
        self.false += false
        if self.checked >= _LEAST_CHECKED and self.ratio > self._most:
            raised = round(self.threshold + _STEP, 4)
            self.threshold = raised if raised <= 0.99 else OFF
            self.checked = self.false = 0


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    if not total:
        return 0.0, 1.0
    share = hits / total
    center = share + _Z**2 / (2 * total)
    spread = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    scale = 1 + _Z**2 / total
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)
