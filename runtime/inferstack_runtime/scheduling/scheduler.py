"""Which sequences the next step computes, and how much of each.

Every running sequence decodes first; what is left of the step's token budget goes to prompts in chunks. While others decode, a chunk is
sized by the measured cost of a prompt token so that a step stays within the inter-token target; it may pass that by a tenth where
it ends a prompt, because a step for the rest would read all weights once more. Prompts follow one another: a step
takes a further one only while the rows are too few to be computed at full speed, so that those in front do not wait for those behind.
Between two prompts, unless more of them wait, the others decode a step: streams that began together then come apart, and their next
prompts find the engine free. When the KV cache runs out, the newest sequence of the least urgent priority gives its blocks up and is
computed again later.
"""

from dataclasses import dataclass

from inferstack_runtime.kernels import BLOCK_POSITIONS
from inferstack_runtime.scheduling.blocks import BlockPool, chain, tenant_root
from inferstack_runtime.scheduling.lookup import MAX_GUESS
from inferstack_runtime.scheduling.queue import WaitingQueue
from inferstack_runtime.scheduling.sequence import Sequence, Share, rows_of

MIN_CHUNK = 32
"""Prompt tokens that a step takes at least, however slow the machine, so that prompts always make progress."""
FULL_SPEED_ROWS = 64
"""Prompt rows from which on a product gains nothing by more of them."""
MAX_GUESSING = 2
"""Sequences that decode with guesses: more of them make good use of a step's weights without."""
_SMOOTHING = 0.2
_TO_END = 1.1
"""Times the inter-token target that a step may take where it ends a prompt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the scheduler. `inter_token_seconds` is the step time that prompt chunks are sized for while others decode."""

    max_sequences: int
    max_batch_tokens: int
    max_queue: int
    context: int
    inter_token_seconds: float = 0.05


class Scheduler:
    """Holds the waiting and the running sequences. One thread only."""

    def __init__(self, limits: Limits, pool: BlockPool, *, reuse: bool = True) -> None:
        """Not `reuse`: every sequence computes its whole prompt."""
        self.limits, self.pool, self._reuse = limits, pool, reuse
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefix_hit_tokens = 0
        self._slots = list(range(limits.max_sequences - 1, -1, -1))
        self._seconds_per_prompt_token = 0.0
        self._decode_seconds = 0.0
        self._prompt_ended = False
        """The last step came to the end of a prompt."""

    def add(self, sequence: Sequence) -> None:
        self.waiting.push(sequence)

    def schedule(self) -> list[Share]:
        """The shares of the next step; their blocks are taken. Empty when there is nothing to do."""
        shares: list[Share] = []
        budget = self.limits.max_batch_tokens
        for sequence in sorted(self.running, key=_urgency):
            if sequence.pending == 1 and sequence.slot >= 0 and budget > 0 and self._make_room(sequence, 1):
                shares.append(Share(sequence, 1))
                budget -= 1
        decoding = len(shares)
        if not (decoding and self._prompt_ended and len(self.waiting) <= 1):
            chunk, whole = self._chunk_budget(decoding=bool(decoding))
            self._take_prompts(min(budget, chunk), min(budget, whole), shares)
        self._prompt_ended = any(share.completes for share in shares[decoding:])
        return [share for share in shares if share.sequence.slot >= 0]

    def with_guesses(self, shares: list[Share]) -> list[Share]:
        """The shares of a step, with guessed tokens where one or two sequences decode alone and blocks are free for them."""
        if len(shares) > MAX_GUESSING or any(share.sequence.pending != 1 or share.sequence.request.mask is not None for share in shares):
            return shares
        return [Share(share.sequence, share.rows, self._guess(share.sequence)) for share in shares]

    def advance(self, share: Share) -> None:
        """Note that a share was computed; makes its full blocks findable."""
        sequence = share.sequence
        sequence.computed += share.rows
        self.waiting.charge(sequence.request.tenant, share.rows)
        while self._reuse and (sequence.published + 1) * BLOCK_POSITIONS <= sequence.computed:
            start = sequence.published * BLOCK_POSITIONS
            part = tuple(sequence.tokens[start : start + BLOCK_POSITIONS])
            sequence.parent = chain(sequence.parent, part)
            self.pool.publish(sequence.blocks[sequence.published], sequence.parent, part)
            sequence.published += 1

    def finish(self, sequence: Sequence, *, reusable: bool = True) -> None:
        """Take a sequence out, running or waiting. Not `reusable`: what it wrote is not to be found by others."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._release(sequence)
        if not reusable:
            self.pool.clear()
        if not self.running and not len(self.waiting):
            self.waiting.forget_idle(set())

    def measured(self, shares: list[Share], seconds: float) -> None:
        """Learn from a step's time what a prompt token costs."""
        prompt_tokens = rows_of([share for share in shares if share.rows > 1])
        if prompt_tokens == 0:
            self._decode_seconds += _SMOOTHING * (seconds - self._decode_seconds)
        elif prompt_tokens >= MIN_CHUNK:
            cost = max(seconds - (self._decode_seconds if len(shares) > 1 else 0.0), 0.0) / prompt_tokens
            self._seconds_per_prompt_token += _SMOOTHING * (cost - self._seconds_per_prompt_token)

    def blocks_for(self, tokens: int) -> int:
        """Blocks for a sequence of so many tokens; the last token's position is never computed."""
        return -(-min(tokens, self.limits.context) // BLOCK_POSITIONS)

    def _chunk_budget(self, *, decoding: bool) -> tuple[int, int]:
        """Prompt tokens for a step, and for one that ends a prompt."""
        if not decoding or self._seconds_per_prompt_token <= 0:
            return self.limits.max_batch_tokens, self.limits.max_batch_tokens
        target = self.limits.inter_token_seconds
        chunk, whole = (int((seconds - self._decode_seconds) / self._seconds_per_prompt_token) for seconds in (target, target * _TO_END))
        chunk = max(MIN_CHUNK, chunk // MIN_CHUNK * MIN_CHUNK)
        return chunk, max(chunk, whole)

    def _guess(self, sequence: Sequence) -> tuple[int, ...]:
        length = len(sequence.tokens)
        most = min(MAX_GUESS, sequence.request.max_tokens - sequence.generated - 1, self.limits.context - length - 1)
        guess = sequence.lookup.guess(sequence.tokens, most) if most > 0 else ()
        while len(sequence.blocks) * BLOCK_POSITIONS < length + len(guess) and (block := self.pool.take()) is not None:
            sequence.blocks.append(block)
        return guess[: len(sequence.blocks) * BLOCK_POSITIONS - length]

    def _take_prompts(self, chunk: int, whole: int, shares: list[Share]) -> None:
        """Add shares of prompts, those that are begun before those that wait: up to `chunk` rows, or `whole` where they end a prompt."""
        least, rest = max(0, chunk - FULL_SPEED_ROWS), whole - chunk
        for sequence in sorted(self.running, key=_urgency):
            if sequence.slot >= 0 and sequence.pending > 1 and chunk > least:
                chunk -= self._prefill(sequence, chunk, rest, shares)
        while chunk > least and self._slots and (head := self.waiting.peek()) is not None:
            if not self._admit(head):
                break
            chunk -= self._prefill(head, chunk, rest, shares)

    def _prefill(self, sequence: Sequence, chunk: int, rest: int, shares: list[Share]) -> int:
        rows = sequence.pending if sequence.pending <= chunk + rest else chunk
        if not self._make_room(sequence, rows):
            return 0
        shares.append(Share(sequence, rows))
        return rows

    def _admit(self, sequence: Sequence) -> bool:
        """Move a waiting sequence into a slot, with the prefix that is already computed; False when its prompt does not fit now."""
        root = tenant_root(sequence.request.tenant)
        reuse = [] if sequence.request.sampling.prompt_logprobs or not self._reuse else self.pool.find(root, sequence.tokens[:-1])
        needed = self.blocks_for(len(sequence.tokens)) - len(reuse)
        if needed > self.pool.available and self.running:
            self.pool.release(reuse)
            return False
        self.waiting.remove(sequence)
        sequence.slot = self._slots.pop()
        sequence.stay += 1
        sequence.blocks = reuse
        sequence.computed = len(reuse) * BLOCK_POSITIONS
        sequence.published, sequence.parent = len(reuse), root
        for i in range(len(reuse)):
            sequence.parent = chain(sequence.parent, tuple(sequence.tokens[i * BLOCK_POSITIONS : (i + 1) * BLOCK_POSITIONS]))
        if not sequence.generated:
            sequence.cached_prompt_tokens = sequence.computed
        self.prefix_hit_tokens += sequence.computed
        self.running.append(sequence)
        return True

    def _make_room(self, sequence: Sequence, rows: int) -> bool:
        """Blocks for the next `rows` positions, by preemption of less urgent sequences if it must be."""
        needed = -(-(sequence.computed + rows) // BLOCK_POSITIONS)
        while len(sequence.blocks) < needed:
            block = self.pool.take()
            if block is not None:
                sequence.blocks.append(block)
                continue
            victim = max(self.running, key=_urgency)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.computed = sequence.published = 0
        self.waiting.push(sequence, front=True)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        self._slots.append(sequence.slot)
        sequence.slot = -1


def _urgency(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.priority, sequence.arrival
