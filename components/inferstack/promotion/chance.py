"""Whether a difference can be chance: exact tests, so that few observations decide nothing that they cannot. Pure."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass


def unpaired(new: Sequence[float], old: Sequence[float]) -> float:
    """One-sided exact p of the rank test of Mann and Whitney (Annals of Mathematical Statistics 18, 1947, with their recurrence).

    The probability that as many pairs as here or more have the member of `new` above that of `old`, when both come from one distribution.
    A tie counts as not above, which errs on the side of chance. 1.0 when either is empty.
    """
    if not new or not old:
        return 1.0
    above = sum(a > b for a in new for b in old)
    counts = _arrangements(len(new), len(old))
    return sum(counts[above:]) / sum(counts)


@functools.cache
def _arrangements(n: int, m: int) -> tuple[int, ...]:
    """How many orders of n and m observations have 0, 1, … n·m pairs with the first kind above the second."""
    if n == 0 or m == 0:
        return (1,)
    counts = [0] * (n * m + 1)
    for index, count in enumerate(_arrangements(n - 1, m)):  # the largest is of the first kind: above all m
        counts[index + m] += count
    for index, count in enumerate(_arrangements(n, m - 1)):
        counts[index] += count
    return tuple(counts)


def paired(new: Sequence[float], old: Sequence[float]) -> float:
    """One-sided exact p of the signed-rank test of Wilcoxon (Biometrics Bulletin 1, 1945) on the ratios of what was measured together.

    The probability of a sum of ranks of the rounds with `new` above `old` as high as here or higher, when each round is as likely to
    come out one way as the other. Equal ratios share their mean rank; a tie inside a round counts as not above. All values are positive.
    """
    logs = [math.log(a / b) for a, b in zip(new, old, strict=True)]
    order = sorted(abs(value) for value in logs)
    # twice the mean rank, so that it is whole: the first and the last place of the same size added up
    ranks = [order.index(abs(value)) + len(order) - order[::-1].index(abs(value)) + 1 for value in logs]
    counts = [1]
    for rank in ranks:
        counts = [a + b for a, b in zip([*counts, *[0] * rank], [*[0] * rank, *counts], strict=True)]
    above = sum(rank for rank, value in zip(ranks, logs, strict=True) if value > 0)
    return sum(counts[above:]) / sum(counts)


@dataclass(frozen=True)
class Looks:
    """A signed-rank test over up to `rounds` rounds that errs at most at `level`, with a look after the first `early` of them."""

    rounds: int
    early: int
    level: float


def paired_so_far(new: Sequence[float], old: Sequence[float], looks: Looks) -> bool | None:
    """The test as it stands after the rounds given: True: the new ones are larger, False: no further rounds can show that any more, None:
    go on.

    Two looks share the level (Pocock, Biometrika 64, 1977): after the early rounds only complete separation counts, whose probability by
    chance is 2^-early, and after the last round what is left; together they err at most as often as one test at the level. That it stops
    once the last look is decided (curtailment) changes no answer: the smallest p left is that of all further rounds coming out above by
    more than any before.
    """
    by_chance = 2.0**-looks.early
    if len(new) >= looks.early and paired(new[: looks.early], old[: looks.early]) <= by_chance:
        return True
    above = [2.0**1000] * (looks.rounds - len(new))
    lowest = paired([*new, *above], [*old, *(1.0 for _ in above)])
    if lowest > looks.level - by_chance:
        return False
    return None if above else True


def at_least(errors: float, requests: float, ratio: float) -> float:
    """Probability of `errors` or more among `requests` when each fails with probability `ratio` (binomial tail)."""
    n, k = round(requests), math.ceil(errors)
    if k <= 0:
        return 1.0
    if ratio <= 0 or k > n:
        return 0.0
    if ratio >= 1:
        return 1.0
    logs = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(ratio) + (n - i) * math.log1p(-ratio)
        for i in range(k, n + 1)
    )
    return min(1.0, sum(math.exp(value) for value in logs))
