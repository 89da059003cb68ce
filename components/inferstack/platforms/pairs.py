"""Compares two slots by the same requests at the same moments, while each has as much to do.

Slots may share cores, caches and a network: then the one beside which another works is slower, whichever version it runs. And a slot
that serves many is slower than one that serves few. So every request goes to both at once, and before that the slot with fewer running
requests is given as many as the other has. What is left between the two is the version.
"""

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from inferstack.platforms.slot_client import SlotClient, Timing, together, told
from inferstack.promotion.platform import Exercise

LOOKS = 3
LOOK_SECONDS = 0.03
"""Looks at how much runs in the slots, and the time between two: requests come and go."""
MOST_OCCUPIED = 64
"""Most requests that a slot is given to be as busy as the other; beyond that the slot with fewer has it easier."""
BEGIN_SECONDS = 5.0
"""Longest time until those requests run."""

Target = tuple[SlotClient, str]
"""A replica and one of its models."""


def compare(
    mine: Sequence[SlotClient], theirs: Sequence[SlotClient], n: int, sleep: Callable[[float], None] = time.sleep
) -> tuple[Exercise, Exercise]:
    """`n` requests at a time to each slot: what the senders to `mine` and to `theirs` met, in that order. `sleep`: between two looks."""
    if not mine or not theirs:
        return _nobody(mine, n), _nobody(theirs, n)
    pairs = list(zip(*_targets(mine, theirs, n), strict=True))
    left, right = _to_add(_running(mine, sleep), _running(theirs, sleep), len(mine), len(theirs))
    with _occupied(mine, left), _occupied(theirs, right):
        started = time.perf_counter()
        labels = [uuid.uuid4().hex[:8] for _ in range(n)]
        timings = together([_sent(target, labels[turn], turn) for turn, pair in enumerate(pairs) for target in pair], 2 * n)
        seconds = time.perf_counter() - started
    both = [_counted(one, other) for one, other in zip(timings[0::2], timings[1::2], strict=True)]
    return told([one for one, _ in both], seconds), told([other for _, other in both], seconds)


def _nobody(clients: Sequence[SlotClient], n: int) -> Exercise:
    return Exercise(0, 0) if clients else Exercise(n, n, "no replica to send to")


def _counted(one: Timing, other: Timing) -> tuple[Timing, Timing]:
    """Both answers to a prompt; their lengths count only where neither failed, so that the sums are about the same prompts."""
    return (replace(one, tokens=0), replace(other, tokens=0)) if one.error or other.error else (one, other)


def _sent(target: Target, label: str, turn: int) -> Callable[[threading.Event], Timing]:
    client, model = target
    return lambda stop: client.generate(model, label=label, turn=turn, stop=stop)


def _targets(mine: Sequence[SlotClient], theirs: Sequence[SlotClient], n: int) -> tuple[list[Target], list[Target]]:
    """Over replicas and models in turn; the same model on both sides wherever both serve it."""
    common = sorted({model for client in mine for model in client.models} & {model for client in theirs for model in client.models})

    def side(clients: Sequence[SlotClient]) -> list[Target]:
        models = common or sorted({model for client in clients for model in client.models})
        turns = {model: itertools.cycle([client for client in clients if model in client.models]) for model in models}
        return [(next(turns[model]), model) for model in itertools.islice(itertools.cycle(models), n)]

    return side(mine), side(theirs)


def _running(clients: Sequence[SlotClient], sleep: Callable[[float], None]) -> float | None:
    """Requests that run in the slot, over several looks; None when a replica does not say."""
    total = 0
    for look in range(LOOKS):
        if look:
            sleep(LOOK_SECONDS)
        for client in clients:
            found = client.readiness().get("in_flight")
            if not isinstance(found, int):
                return None
            total += found
    return total / LOOKS


def _to_add(mine: float | None, theirs: float | None, replicas: int, other_replicas: int) -> tuple[int, int]:
    """How many requests each slot is given so that a replica of one has as many as a replica of the other."""
    if mine is None or theirs is None:
        return 0, 0
    more = theirs / other_replicas - mine / replicas
    added = min(MOST_OCCUPIED, round(abs(more) * (replicas if more > 0 else other_replicas)))
    return (added, 0) if more > 0 else (0, added)


@contextmanager
def _occupied(clients: Sequence[SlotClient], count: int) -> Iterator[None]:
    """`count` requests run in the slot all the time, over its replicas and models in turn."""
    stop = threading.Event()
    begun = [threading.Event() for _ in range(count)]
    targets = itertools.cycle([(client, model) for client in clients for model in client.models])
    threads = [
        threading.Thread(target=client.occupy, args=(model, stop, event), daemon=True)
        for event, (client, model) in zip(begun, targets, strict=False)
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + BEGIN_SECONDS
    try:
        for event in begun:
            event.wait(max(0.0, until - time.monotonic()))
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
