"""The engine: continuous batching over a decoder, which is the one of this package's own kernels or one of transformers.

One thread calls `step`; any thread submits and aborts. A step drains the inbox, asks the scheduler for shares, runs one native call over
all rows (forward pass, sampling and log-probabilities), and hands the new tokens out.
"""

import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.base import EngineStats, FinishReason, GenerationRequest, QueueFull, StepOutput, TokenLogprobs
from inferstack_runtime.engines.decoder import StepDecoder, StepFailed
from inferstack_runtime.engines.slots import Slots
from inferstack_runtime.kernels import BLOCK_POSITIONS, MAX_ALTERNATIVES, SAMPLE_RESULT, SEGMENT
from inferstack_runtime.scheduling.blocks import BlockPool
from inferstack_runtime.scheduling.lookup import MAX_GUESS
from inferstack_runtime.scheduling.scheduler import MAX_GUESSING, Limits, Scheduler
from inferstack_runtime.scheduling.sequence import Sequence, Share

QUEUE_DEPTH = 8
"""Accepted requests may commit to so many times the KV cache before further ones are refused."""
_SAMPLE_ERRORS = {1: "the model's logits are not finite", 2: "the grammar allows no token here"}
_SEED_MASK = (1 << 64) - 1

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Sample:
    """Which sequence a result of the step belongs to; `target` is None where a token is drawn, else a prompt token is scored.

    `guess` is what the row took for the token before it, where that was not known yet; `length` the tokens that it counts on.
    """

    sequence: Sequence
    target: int | None
    length: int = 0
    guess: int | None = None

    @property
    def counts(self) -> bool:
        """Whether what the row took for given has come true."""
        return self.guess is None or (len(self.sequence.tokens) == self.length and self.sequence.tokens[-1] == self.guess)


class BatchingEngine:
    """See `base.Engine`."""

    def __init__(self, decoder: StepDecoder, limits: Limits, kv_cache_bytes: int, end_tokens: frozenset[int]) -> None:
        """Raises `ModelLoadError` when the KV cache cannot be reserved."""
        per_sequence = -(-limits.context // BLOCK_POSITIONS)
        blocks = max(1, min(kv_cache_bytes // decoder.block_bytes, per_sequence * limits.max_sequences * 4))
        limits = replace(limits, context=min(limits.context, blocks * BLOCK_POSITIONS))
        self._decoder, self._limits, self._end_tokens = decoder, limits, end_tokens
        decoder.allocate_cache(blocks)
        self._pool = BlockPool(blocks)
        self._scheduler = Scheduler(limits, self._pool, reuse=decoder.reuses_prefixes)
        self._inbox: deque[tuple[GenerationRequest, float] | str] = deque()
        self._wake = threading.Condition()
        self._stepping = threading.Lock()
        self._closed = False
        self._sequences: dict[str, Sequence] = {}
        self._commitments: dict[str, int] = {}
        """Blocks that each accepted request may come to need."""
        self._arrivals = 0
        self._stats = EngineStats(kv_bytes_total=blocks * decoder.block_bytes, weight_bytes=decoder.weight_bytes)
        self._counts = dict.fromkeys(
            ("prompt_tokens", "generated_tokens", "steps", "last_batch_size", "guessed_tokens", "accepted_guesses"), 0
        )
        self._compute_seconds = self._host_seconds = 0.0
        self._tokens_per_second = 0.0
        rows = limits.max_batch_tokens + limits.max_sequences + MAX_GUESSING * MAX_GUESS
        self._slots = Slots(limits.max_sequences, limits.context, decoder.vocabulary)
        self._tokens, self._positions = np.zeros(rows, np.int32), np.zeros(rows, np.int32)

    @property
    def context(self) -> int:
        """Positions of a sequence's prompt and answer: as many as asked for, or fewer where the KV cache holds no more."""
        return self._limits.context

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; raises `QueueFull`, or `ValueError` for a request that can never run."""
        self._check(request)
        needed = self._scheduler.blocks_for(len(request.prompt) + request.max_tokens)
        with self._wake:
            if request.request_id in self._commitments:
                raise ValueError(f"request {request.request_id!r} is already here")
            waiting = len(self._commitments) - len(self._scheduler.running)
            committed = sum(self._commitments.values())
            crowded = committed + needed > QUEUE_DEPTH * self._pool.count and waiting > 0
            if waiting >= self._limits.max_queue + self._limits.max_sequences - len(self._scheduler.running) or crowded:
                raise QueueFull(self._retry_after(committed))
            self._commitments[request.request_id] = needed
            self._inbox.append((request, time.perf_counter()))
            self._wake.notify()

    def abort(self, request_id: str) -> None:
        """End a request within one step; unknown ids are ignored."""
        with self._wake:
            self._inbox.append(request_id)
            self._wake.notify()

    def step(self, timeout: float | None = None) -> list[StepOutput]:
        """See `base.Engine.step`."""
        with self._wake:
            if not self._inbox and not self._sequences and not self._closed and timeout:
                self._wake.wait(timeout)
        with self._stepping:
            if self._closed:
                return []
            started = time.perf_counter()
            outputs = self._receive()
            shares = self._scheduler.schedule()
            if self._decoder.reuses_prefixes:  # a position may be computed twice
                shares = self._scheduler.with_guesses(shares)
            if not shares:
                return outputs
            compute = self._run(shares, outputs)
            total = time.perf_counter() - started
            self._compute_seconds += compute
            self._host_seconds += total - compute
            return outputs

    def stats(self) -> EngineStats:
        """A snapshot; may be taken from any thread."""
        scheduler = self._scheduler
        return EngineStats(
            running=len(scheduler.running),
            waiting=max(0, len(self._commitments) - len(scheduler.running)),
            kv_bytes_used=self._pool.held * self._decoder.block_bytes,
            kv_bytes_total=self._stats.kv_bytes_total,
            weight_bytes=self._stats.weight_bytes,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            preemptions=scheduler.preemptions,
            kv_dtype=self._decoder.kv_dtype,
            step_compute_seconds=self._compute_seconds,
            step_host_seconds=self._host_seconds,
            **self._counts,
        )

    def close(self) -> None:
        """Free everything; a running `step` returns first."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        with self._stepping:
            self._decoder.close()

    # ---- Requests --------------------------------------------------------------------------------------------------------------

    def _check(self, request: GenerationRequest) -> None:
        length, context = len(request.prompt), self._limits.context
        if not length:
            raise ValueError("the prompt is empty; expected at least one token")
        if length + min(request.max_tokens, 1) > context:
            raise ValueError(f"the prompt has {length} tokens, the context of {context} must hold it and an answer")
        if request.max_tokens < 0:
            raise ValueError(f"max_tokens is {request.max_tokens}, expected 0 or more")
        vocabulary = self._decoder.vocabulary
        if min(request.prompt) < 0 or max(request.prompt) >= vocabulary:
            raise ValueError(f"the prompt holds a token outside the vocabulary of {vocabulary}")
        sampling = request.sampling
        if any(not 0 <= token < vocabulary for token in sampling.logit_bias):
            raise ValueError(f"logit_bias names a token outside the vocabulary of {vocabulary}")
        if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MAX_ALTERNATIVES:
            raise ValueError(f"logprobs is {sampling.logprobs}, expected 0 to {MAX_ALTERNATIVES}")
        for name, least in (("temperature", 0.0), ("min_p", 0.0), ("top_p", 0.0), ("repetition_penalty", 1e-6)):
            value = getattr(sampling, name)
            if not math.isfinite(value) or value < least:
                raise ValueError(f"{name} is {value}, expected {least:g} or more")

    def _retry_after(self, committed: int) -> float:
        rate = self._tokens_per_second or 100.0
        return max(1.0, min(60.0, committed * BLOCK_POSITIONS / rate / max(1, self._limits.max_queue)))

    def _receive(self) -> list[StepOutput]:
        with self._wake:
            messages = list(self._inbox)
            self._inbox.clear()
        outputs = []
        for message in messages:
            if isinstance(message, str):
                if (sequence := self._sequences.get(message)) is not None:
                    outputs.append(self._end(sequence, "abort"))
                continue
            request, submitted = message
            seed = request.sampling.seed
            number = secrets.randbits(64) if seed is None else seed & _SEED_MASK
            sequence = Sequence(request, self._arrivals, list(request.prompt), number, submitted=submitted)
            self._arrivals += 1
            self._sequences[request.request_id] = sequence
            self._scheduler.add(sequence)
        return outputs

    def _end(self, sequence: Sequence, reason: FinishReason, tokens: tuple[int, ...] = (), error: str | None = None) -> StepOutput:
        slot = sequence.slot
        self._scheduler.finish(sequence, reusable=reason != "error")
        self._slots.forget(slot)
        self._sequences.pop(sequence.request.request_id, None)
        with self._wake:
            self._commitments.pop(sequence.request.request_id, None)
        return StepOutput(
            sequence.request.request_id,
            tokens,
            finish_reason=reason,
            error=error,
            cached_prompt_tokens=sequence.cached_prompt_tokens,
        )

    # ---- One step ----------------------------------------------------------------------------------------------------------------

    def _run(self, shares: list[Share], outputs: list[StepOutput]) -> float:
        shares = [share for share in shares if self._prepare(share.sequence, outputs)]
        if not shares:
            return 0.0
        rows = self._lay_out(shares)
        segments = np.array([(share.sequence.slot, start, share.width) for share, start in rows], SEGMENT)
        count = rows[-1][1] + rows[-1][0].width
        samples, specs = self._sample_specs(rows)
        results = np.zeros(len(specs), SAMPLE_RESULT)
        started = time.perf_counter()
        for share in shares:
            if share.sequence.queued is None:
                share.sequence.queued = started - share.sequence.submitted
        try:
            self._decoder.step(self._tokens[:count], self._positions[:count], segments, self._slots.tables, specs, results)
        except StepFailed as error:
            log.error("step failed: %s", error)
            outputs += [self._end(share.sequence, "error", error=f"the engine could not run: {error}") for share in shares]
            return 0.0
        seconds = time.perf_counter() - started
        self._scheduler.measured(shares, seconds)
        self._counts["steps"] += 1
        self._counts["last_batch_size"] = len(shares)
        before = self._counts["generated_tokens"]
        for share in shares:
            self._counts["prompt_tokens"] += min(share.rows, max(0, share.sequence.prompt_length - share.sequence.computed))
            self._scheduler.advance(share)
        lengths = [len(share.sequence.tokens) for share in shares]
        self._collect(samples, results, outputs)
        for share, length in zip(shares, lengths, strict=True):
            if share.guess:
                right = max(0, len(share.sequence.tokens) - length - 1)
                share.sequence.lookup.learn(len(share.guess), right)
                self._counts["guessed_tokens"] += len(share.guess)
                self._counts["accepted_guesses"] += right
        done = self._counts["generated_tokens"] - before
        if done:
            self._tokens_per_second += 0.1 * (done / seconds - self._tokens_per_second)
        return seconds

    def _prepare(self, sequence: Sequence, outputs: list[StepOutput]) -> bool:
        """Bring the slot's tables up to date and fill its token mask; ends the request when its grammar fails."""
        self._slots.update(sequence)
        if sequence.request.mask is None:
            return True
        try:
            sequence.request.mask.fill(self._slots.mask(sequence.slot))
        except Exception as error:
            outputs.append(self._end(sequence, "error", error=f"the grammar failed: {error}"))
            return False
        return True

    def _lay_out(self, shares: list[Share]) -> list[tuple[Share, int]]:
        """Tokens and positions of all rows; returns each share with its first row."""
        rows, start = [], 0
        for share in shares:
            history, computed, end = self._slots.history[share.sequence.slot], share.sequence.computed, start + share.width
            if share.guess:
                history[computed + share.rows : computed + share.width] = share.guess
            self._tokens[start:end] = history[computed : computed + share.width]
            self._positions[start:end] = np.arange(computed, computed + share.width) if share.width > 1 else computed
            rows.append((share, start))
            start = end
        return rows

    def _sample_specs(self, rows: Items[tuple[Share, int]]) -> tuple[list[_Sample], NDArray[np.void]]:
        samples: list[_Sample] = []
        slots, at, targets, lengths = [], [], [], []
        for share, start in rows:
            sequence = share.sequence
            if sequence.request.sampling.prompt_logprobs:
                last = min(sequence.computed + share.rows, sequence.prompt_length - 1)
                first = max(sequence.computed, len(sequence.prompt_logprobs))  # after preemption some are scored already
                for position in range(first, last):
                    samples.append(_Sample(sequence, sequence.tokens[position + 1]))
                    slots.append(sequence.slot)
                    at.append(start + position - sequence.computed)
                    targets.append(sequence.tokens[position + 1])
                    lengths.append(0)
            if share.completes and sequence.request.max_tokens:
                for i, guess in enumerate((None, *share.guess)):
                    length = len(sequence.tokens) + i
                    samples.append(_Sample(sequence, None, length, guess))
                    slots.append(sequence.slot)
                    at.append(start + share.rows - 1 + i)
                    targets.append(-1)
                    lengths.append(length)
        specs = self._slots.specs[slots]
        specs["row"], specs["target"], specs["length"] = at, targets, lengths
        specs["position"] = [max(0, length - sample.sequence.prompt_length) for length, sample in zip(lengths, samples, strict=True)]
        scored = specs["target"] >= 0
        specs["alternatives"][scored] = np.maximum(specs["alternatives"][scored], 0)
        return samples, specs

    def _collect(self, samples: list[_Sample], results: NDArray[np.void], outputs: list[StepOutput]) -> None:
        ended: set[int] = set()
        statuses, tokens = results["status"].tolist(), results["token"].tolist()
        for i, sample in enumerate(samples):
            sequence = sample.sequence
            if id(sequence) in ended or not sample.counts:
                continue
            if sample.guess is not None:
                if sequence.slot < 0:  # ended by the token before
                    continue
                self._scheduler.advance(Share(sequence, 1))
            if statuses[i]:
                outputs.append(self._end(sequence, "error", error=_SAMPLE_ERRORS.get(statuses[i], f"sampler status {statuses[i]}")))
                ended.add(id(sequence))
            elif sample.target is not None:
                sequence.prompt_logprobs.append(_logprobs(results[i]))
            else:
                outputs.append(self._accept(sequence, tokens[i], results[i]))
        for sequence in list(self._scheduler.running):
            if not sequence.request.max_tokens and sequence.pending == 0:
                outputs.append(self._with_prompt(sequence, self._end(sequence, "length")))

    def _accept(self, sequence: Sequence, token: int, result: NDArray[np.void]) -> StepOutput:
        request = sequence.request
        sampling = request.sampling
        self._counts["generated_tokens"] += 1
        if token in sampling.stop_token_ids or (token in self._end_tokens and not sampling.ignore_eos):
            return self._with_prompt(sequence, self._end(sequence, "stop"))
        if request.mask is not None:
            try:
                request.mask.accept(token)
            except Exception as error:
                return self._end(sequence, "error", error=f"the grammar failed: {error}")
        sequence.tokens.append(token)
        logprobs = () if sampling.logprobs is None else (_logprobs(result),)
        if sequence.generated >= request.max_tokens or len(sequence.tokens) >= self._limits.context:
            output = self._end(sequence, "length", (token,))
        else:
            self._slots.history[sequence.slot, len(sequence.tokens) - 1] = token
            output = StepOutput(request.request_id, (token,), cached_prompt_tokens=sequence.cached_prompt_tokens)
        if logprobs:
            output = replace(output, logprobs=logprobs)
        if sequence.generated == 1:
            output = replace(output, queue_seconds=sequence.queued)
        return self._with_prompt(sequence, output)

    def _with_prompt(self, sequence: Sequence, output: StepOutput) -> StepOutput:
        if sequence.reported_prompt or not sequence.request.sampling.prompt_logprobs:
            return output
        sequence.reported_prompt = True
        return replace(output, prompt_logprobs=(None, *sequence.prompt_logprobs))


def _logprobs(result: NDArray[np.void]) -> TokenLogprobs:
    count = int(result["alternatives"])
    top = zip(result["tokens"][:count].tolist(), result["logprobs"][:count].tolist(), strict=True)
    return TokenLogprobs(int(result["token"]), float(result["logprob"]), tuple(top))
