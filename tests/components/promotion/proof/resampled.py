"""How often the comparison of two slots errs: rounds recorded on a real machine under load, drawn again thousands of times.

Rounds of an unchanged version are recorded in a row. A simulated check takes consecutive ones from a random place on (a block bootstrap:
Künsch, Annals of Statistics 17, 1989), so that what holds on for several rounds on a real machine does so here; a slower version is the
same with its times multiplied. The gates that judge are the ones that promotions use.
"""

import math
import random
from dataclasses import replace
from typing import Any

from inferstack.environment import Gates, SlotName
from inferstack.promotion import gates
from inferstack.promotion.gates import Evidence, Rounds
from inferstack.promotion.measure import Histogram, WindowStats
from inferstack.promotion.platform import Exercise
from tests.components.promotion.proof.arena import Load, arena
from tests.components.promotion.proof.scenarios import QUICK

SLOWER = (1.0, 1.25, 1.5, 1.75, 2.0, 3.0)
"""Factors on the recorded times of the new slot."""


def rounds(count: int, model: str, checks: int, seed: int) -> dict[str, Any]:
    """`count` rounds recorded under load, and what `checks` simulated checks make of them, by factor."""
    recorded: list[tuple[Exercise, Exercise]] = []
    with arena(model, **QUICK) as made, Load(made) as load:
        platform, live = made.platform(), SlotName(made.environment.slots.initial)
        while len(recorded) < count:
            recorded.append(platform.compare(live.other, live, gates.ROUND_REQUESTS))
        answered = load.answered
    chance, limits = random.Random(seed), made.environment.promotion.gates
    return {
        "model": model,
        "rounds": count,
        "beside_requests": answered,
        "checks": checks,
        "by_factor": [{"factor": factor} | simulated(tuple(recorded), factor, limits, checks, chance) for factor in SLOWER],
    }


def simulated(recorded: Rounds, factor: float, limits: Gates, checks: int, chance: random.Random) -> dict[str, float]:
    """Shares of the first comparisons that suspected the version and of the confirming ones, of both (they are minutes apart, so drawn
    apart), and the mean number of rounds that a promotion's comparisons took."""
    slower = tuple((_slowed(new, factor), live) for new, live in recorded)
    suspected, took = [0, 0], [0, 0]
    for confirming in (False, True):
        looks = gates.planned(limits, confirming=confirming)
        for _ in range(checks):
            first, order = chance.randrange(len(slower)), range(looks.rounds)
            drawn = [slower[(first + index) % len(slower)] for index in order]
            least = math.ceil(limits.min_requests / gates.ROUND_REQUESTS)
            count = next((n for n in order if n >= least and gates.is_settled(tuple(drawn[:n]), limits, looks)), len(drawn))
            suspected[confirming] += _suspected(tuple(drawn[:count]), limits, confirming=confirming)
            took[confirming] += count
    once, again = (found / checks for found in suspected)
    return {"suspected": once, "confirmed": again, "twice": once * again, "rounds": (took[0] + once * took[1]) / checks}


def _suspected(drawn: Rounds, limits: Gates, *, confirming: bool) -> bool:
    new = WindowStats(requests=limits.min_requests, ttft=drawn[0][0].ttft, inter_token=drawn[0][0].inter_token)
    bounds = {"ttft_p95_seconds": 1e9, "inter_token_p95_seconds": 1e9}  # what is asked here is the comparison alone
    return gates.decide("pre-check", Evidence(new=new, rounds=drawn, confirmed=confirming), limits.model_copy(update=bounds), 0.0).suspected


def _slowed(exercise: Exercise, factor: float) -> Exercise:
    def longer(times: Histogram) -> Histogram:
        return Histogram(tuple(bound * factor for bound in times.bounds), times.counts)

    return replace(exercise, ttft=longer(exercise.ttft), inter_token=longer(exercise.inter_token))
