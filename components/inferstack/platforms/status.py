"""What an environment on a cluster is doing, in the form that `status --json` prints."""

from typing import Any

from inferstack.environment import Environment, SlotName
from inferstack.promotion.journal import Journal, JournalUnreadable, Phase
from inferstack.promotion.platform import Platform, SlotObservation


def platform_status(name: str, environment: Environment, platform: Platform) -> dict[str, Any]:
    """The contract's keys, `drift` and `problems`, from one look at the platform and its journal; raises PlatformError."""
    observation = platform.observe()
    journal, problems = _journal(platform)
    weights = {slot: getattr(observation.weights, slot) if observation.weights is not None else 0 for slot in SlotName}
    heaviest = max(SlotName, key=lambda slot: weights[slot]) if observation.weights is not None else None
    active = journal.active if journal is not None else heaviest
    spec = observation.slots[active].spec if active is not None else None
    return {
        "environment": name,
        "running": any(slot.ready for slot in observation.slots.values()),
        "url": f"http://{environment.gateway.hostname}" if environment.gateway.hostname else None,
        "active_slot": active,
        "previous_slot": journal.previous if journal is not None else None,
        "phase": "unknown" if problems else journal.phase if journal is not None else Phase.IDLE,
        "generation": journal.generation if journal is not None else spec.generation if spec is not None else 0,
        "weights": {str(slot): weight for slot, weight in weights.items()},
        "slots": {str(slot): _slot(environment, slot, observation.slots[slot]) for slot in SlotName},
        "parts": {},
        "drift": list(observation.drift),
        "problems": problems,
    }


def _journal(platform: Platform) -> tuple[Journal | None, list[str]]:
    """The promotion journal, and why it cannot be read: what runs is told all the same."""
    try:
        return platform.read_journal()[0], []
    except JournalUnreadable as error:
        return None, [str(error)]


def _slot(environment: Environment, slot: SlotName, seen: SlotObservation) -> dict[str, Any]:
    model = seen.spec.models[0] if seen.spec is not None else None
    whole = seen.replicas > 0 and seen.ready >= seen.replicas
    return {
        "ready": whole,
        "replicas": seen.replicas,
        "model": model.name if model is not None else None,
        "quantization": model.quantization if model is not None else None,
        "model_digest": model.digest if model is not None else None,
        "url": f"http://inferstack-{slot}.{environment.namespace}.svc:{environment.engine.port}",
        "healthy": whole and seen.failure is None,
        "generation": seen.spec.generation if seen.spec is not None else None,
        "in_flight": seen.in_flight,
        "reason": seen.failure or seen.waiting,
    }
