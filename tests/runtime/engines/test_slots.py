"""The arrays of a slot are those of the sequence that is in it now."""

from inferstack_runtime.engines.base import GenerationRequest, Sampling
from inferstack_runtime.engines.slots import Slots
from inferstack_runtime.scheduling.sequence import Sequence


def sequence(tokens: list[int], blocks: list[int], **sampling: float) -> Sequence:
    request = GenerationRequest("r", tokens, 8, Sampling(**sampling))
    return Sequence(request, arrival=0, tokens=list(tokens), seed=9, submitted=0.0, slot=0, stay=1, blocks=blocks)


def test_a_growing_sequence_adds_its_blocks() -> None:
    slots = Slots(2, 256, 100)
    one = sequence([4, 5, 6], [7], temperature=0.5)
    slots.update(one)
    one.blocks.append(3)
    slots.update(one)
    assert slots.tables[0, :2].tolist() == [7, 3]
    assert slots.history[0, :3].tolist() == [4, 5, 6]
    assert slots.specs[0]["temperature"] == 0.5


def test_after_preemption_nothing_of_the_stay_before_is_left() -> None:
    slots = Slots(2, 256, 100)
    one = sequence([4, 5, 6], [7, 3])
    slots.update(one)
    one.blocks, one.stay = [1, 2, 5], 2
    slots.update(one)
    assert slots.tables[0, :3].tolist() == [1, 2, 5]


def test_another_sequence_takes_the_slot_over_with_no_fewer_blocks() -> None:
    slots = Slots(2, 256, 100)
    slots.update(sequence([4, 5, 6], [7, 3], temperature=0.5))
    slots.update(sequence([8, 9], [1, 2, 6], temperature=0.9))
    assert slots.tables[0, :3].tolist() == [1, 2, 6]
    assert slots.history[0, :2].tolist() == [8, 9]
    assert abs(slots.specs[0]["temperature"] - 0.9) < 1e-6
