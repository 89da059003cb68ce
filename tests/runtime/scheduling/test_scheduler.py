"""Who is computed next, and how much: no model, only shares."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from inferstack_runtime.engines.base import GenerationRequest
from inferstack_runtime.scheduling.blocks import BlockPool
from inferstack_runtime.scheduling.lookup import MAX_GUESS, Lookup
from inferstack_runtime.scheduling.scheduler import MIN_CHUNK, Limits, Scheduler
from inferstack_runtime.scheduling.sequence import Sequence, Share


def make(blocks: int = 64, *, slots: int = 4, batch: int = 128, context: int = 1024) -> Scheduler:
    return Scheduler(Limits(slots, batch, 16, context), BlockPool(blocks))


def add(scheduler: Scheduler, name: str, length: int, *, tenant: str = "", priority: int = 0, first: int = 0) -> Sequence:
    tokens = list(range(first, first + length))
    request = GenerationRequest(name, tokens, 64, tenant=tenant, priority=priority)
    arrival = len(scheduler.waiting) + len(scheduler.running)
    sequence = Sequence(request, arrival=arrival, tokens=list(tokens), seed=0, submitted=0.0)
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler, seconds: float = 0.01) -> list[tuple[str, int]]:
    """One step in which every sequence whose tokens are all computed gets another token."""
    shares = scheduler.schedule()
    scheduler.measured(shares, seconds)
    for share in shares:
        scheduler.advance(share)
        if share.sequence.pending == 0:
            share.sequence.tokens.append(7)
    return [(share.sequence.request.request_id, share.rows) for share in shares]


def test_decoding_comes_before_prompts_which_come_in_chunks() -> None:
    scheduler = make()
    add(scheduler, "a", 40)
    assert step(scheduler) == [("a", 40)]
    assert step(scheduler) == [("a", 1)]
    add(scheduler, "b", 300, first=1000)
    assert [step(scheduler) for _ in range(3)] == [[("a", 1), ("b", 127)], [("a", 1), ("b", 127)], [("a", 1), ("b", 46)]]
    assert step(scheduler) == [("a", 1), ("b", 1)]


def test_a_step_takes_a_further_prompt_only_while_its_rows_are_few() -> None:
    scheduler = make(batch=512)
    for i, length in enumerate((40, 30, 128, 40)):
        add(scheduler, "abcd"[i], length, first=1000 * i)
    assert step(scheduler) == [("a", 40), ("b", 30)]
    assert step(scheduler) == [("a", 1), ("b", 1), ("c", 128)]


def test_between_two_prompts_the_others_decode_a_step_unless_more_wait() -> None:
    scheduler = make(batch=512)
    for i, name in enumerate("abcd"):
        add(scheduler, name, 128, first=1000 * i)
    order = [sorted(step(scheduler))[-1] for _ in range(5)]
    assert order == [("a", 128), ("b", 128), ("c", 128), ("c", 1), ("d", 128)]


def test_streams_in_a_closed_loop_come_apart() -> None:
    """Four streams that begin together: by the third round each prompt finds no other in front of it."""
    scheduler, waits = make(batch=512), []
    added: dict[str, int] = {}

    def again(now: int) -> None:
        added[f"s{len(added)}"] = now
        add(scheduler, f"s{len(added) - 1}", 128, first=1000 * len(added))

    for _ in range(4):
        again(0)
    ended: list[int] = []
    for now in range(120):
        for _ in ended:
            again(now)  # an answer's end is known to its client when the next step has begun
        ended = []
        waits += [now - added[name] for name, rows in step(scheduler) if rows > 1]
        for sequence in [s for s in scheduler.running if s.generated >= 16]:
            scheduler.finish(sequence)
            ended.append(now)
    assert max(waits[:4]) > 2
    assert max(waits[8:]) <= 1


def test_a_slow_machine_takes_smaller_chunks_while_others_decode() -> None:
    scheduler = make()
    add(scheduler, "a", 64)
    for _ in range(12):
        step(scheduler, 0.04)
    add(scheduler, "b", 400, first=1000)
    rows = [dict(step(scheduler, 0.2)).get("b", 0) for _ in range(4)]
    assert rows[0] > rows[-1] == MIN_CHUNK


def test_a_step_may_pass_its_target_by_a_tenth_where_that_ends_a_prompt() -> None:
    """At 1 ms for a prompt token the target of 50 ms allows a chunk of 32, and 55 tokens where nothing is left."""
    for length, steps in ((55, [55]), (56, [32, 24]), (87, [32, 55])):
        scheduler = make(batch=512)
        first = add(scheduler, "a", 64)
        for _ in range(60):
            scheduler.measured([Share(first, 64)], 0.064)
        step(scheduler, 0.064)
        step(scheduler, 0.0)
        add(scheduler, "b", length, first=1000)
        assert [dict(step(scheduler, 0.0))["b"] for _ in steps] == steps


def test_priority_comes_first_and_tenants_take_turns() -> None:
    scheduler = make(slots=1)
    for i in range(3):
        add(scheduler, f"loud{i}", 32, tenant="loud", first=100 * i)
    add(scheduler, "quiet", 32, tenant="quiet", first=1000)
    add(scheduler, "urgent", 32, tenant="loud", priority=-1, first=2000)
    order = []
    while len(scheduler.waiting) or scheduler.running:
        order.append(step(scheduler)[0][0])
        scheduler.finish(scheduler.running[0])
    assert order[0] == "urgent"
    assert order[1] == "quiet"  # the other tenant has been served already
    assert order[2:] == ["loud0", "loud1", "loud2"]


def test_the_newest_gives_way_when_blocks_run_out_and_is_computed_again() -> None:
    scheduler = make(blocks=4)
    old, new = add(scheduler, "old", 60), add(scheduler, "new", 60, first=500)
    assert step(scheduler) == [("old", 60), ("new", 60)]
    for _ in range(5):
        step(scheduler)
    assert scheduler.preemptions == 1
    assert (old.slot >= 0, new.slot) == (True, -1)
    scheduler.finish(old)
    rest = len(new.tokens) - 32  # its first block was not needed by anybody
    assert step(scheduler) == [("new", rest)]


def test_a_prefix_is_found_again_by_its_tenant_only() -> None:
    scheduler = make()
    first = add(scheduler, "first", 100, tenant="a")
    step(scheduler)
    scheduler.finish(first)
    again, stranger = add(scheduler, "again", 100, tenant="a"), add(scheduler, "stranger", 100, tenant="b")
    assert sorted(step(scheduler)) == [("again", 4), ("stranger", 100)]
    assert (again.cached_prompt_tokens, stranger.cached_prompt_tokens) == (96, 0)


def test_guesses_need_free_blocks_and_two_sequences_at_most() -> None:
    scheduler = make(blocks=2)
    sequence = add(scheduler, "a", 30)
    sequence.tokens[:] = [1, 2, 3, 4, 5, 6] * 5
    step(scheduler)
    sequence.tokens[-1:] = [1, 2, 3]
    sequence.computed = len(sequence.tokens) - 1
    guessing = scheduler.with_guesses([Share(sequence, 1)])[0]
    assert guessing.guess == (4, 5)
    assert guessing.width == 3
    assert len(sequence.blocks) * 32 >= sequence.computed + guessing.width
    assert scheduler.with_guesses([Share(sequence, 1)] * 3)[0].guess == ()


def test_a_lookup_learns_how_far_to_guess() -> None:
    lookup, text = Lookup(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3]
    assert lookup.guess(text, 99) == (4, 5)
    lookup.learn(2, 2)
    assert lookup.guess(text, 99) == (4, 5, 6, 7)
    lookup.learn(4, 4)
    assert lookup.guess(text, 99) == tuple(range(4, 4 + MAX_GUESS))
    assert lookup.guess(text, 3) == (4, 5, 6)
    lookup.learn(7, 2)
    assert lookup.guess(text, 99) == (4, 5, 6)
    lookup.learn(3, 0)
    assert [lookup.guess(text, 99) for _ in range(2)] == [(), (4,)]
    lookup.learn(1, 0)
    assert [lookup.guess(text, 99) for _ in range(4)] == [(), (), (), (4,)]
    assert lookup.guess([*text, 99], 99) == ()


asks = st.lists(
    st.tuples(st.integers(1, 140), st.integers(1, 80), st.sampled_from(["", "a", "b"]), st.integers(0, 2)), min_size=1, max_size=8
)


@settings(max_examples=150)
@given(asked=asks, blocks=st.integers(7, 20), slots=st.integers(1, 6), batch=st.sampled_from([16, 64, 128]), seed=st.integers(0, 999))
def test_whatever_comes_everybody_ends_and_no_block_is_lost(
    asked: list[tuple[int, int, str, int]], blocks: int, slots: int, batch: int, seed: int
) -> None:
    scheduler = make(blocks, slots=slots, batch=batch, context=blocks * 32)
    coming = [(f"r{i}", length, tenant, priority) for i, (length, _, tenant, priority) in enumerate(asked)]
    wanted = {f"r{i}": answer for i, (_, answer, _, _) in enumerate(asked)}
    chance = random.Random(seed)
    for _ in range(5000):
        if coming and chance.random() < 0.5:
            name, length, tenant, priority = coming.pop(0)
            add(scheduler, name, length, tenant=tenant, priority=priority)
        if not (coming or scheduler.running or len(scheduler.waiting)):
            break
        shares = scheduler.schedule()
        assert len({id(share.sequence) for share in shares}) == len(shares)
        held: list[int] = [block for sequence in scheduler.running for block in sequence.blocks]
        assert scheduler.pool.held == len(set(held))
        for share in shares:
            sequence = share.sequence
            assert 1 <= share.rows <= sequence.pending
            assert len(sequence.blocks) * 32 >= sequence.computed + share.rows
            scheduler.advance(share)
            if sequence.pending == 0:
                sequence.tokens.append(7)
                if sequence.generated == wanted[sequence.request.request_id]:
                    scheduler.finish(sequence)
        scheduler.measured(shares, 0.01)
    assert (len(scheduler.running), len(scheduler.waiting)) == (0, 0)
    assert scheduler.pool.available == blocks
