"""Differences between what the journal says and what is live. Pure; a promotion is refused over them unless told otherwise."""

from inferstack.environment import SlotName
from inferstack.promotion.journal import Journal
from inferstack.promotion.platform import Observation
from inferstack.promotion.weights import Weights


def find_drift(journal: Journal, observation: Observation) -> tuple[str, ...]:
    """One sentence per difference; empty when there is none. An operation under way moves weights itself, so they are not compared then."""
    found: list[str] = list(observation.drift)
    at_rest = journal.operation is None or not journal.operation.shifted
    if observation.weights is None:
        found.append("the route cannot be read")
    elif at_rest and observation.weights != Weights.share(journal.active, 100):
        found.append(f"weights are {observation.weights}, by the journal {journal.active} has all")
    for slot in sorted(frozenset(SlotName) - observation.named):
        found.append(f"the route does not name {slot}")
    recorded, live = journal.specs.get(journal.active), observation.slots[journal.active].spec
    if recorded is not None and live is None:
        found.append(f"{journal.active} was not rendered by a promotion any more: what it runs cannot be told")
    elif recorded is not None and live is not None and recorded.id != live.id:
        found.append(
            f"{journal.active} runs {live.summary} of generation {live.generation}, "
            f"the journal says {recorded.summary} of generation {recorded.generation}"
        )
    return tuple(found)
