"""What a native step reads of each running sequence, one row per slot: block table, tokens, sampling settings, token mask."""

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.kernels import BLOCK_POSITIONS, SAMPLE_SPEC
from inferstack_runtime.scheduling.sequence import Sequence


class Slots:
    """Arrays that live as long as the engine, because the kernels read them by address."""

    def __init__(self, count: int, context: int, vocabulary: int) -> None:
        self.tables = np.zeros((count, -(-context // BLOCK_POSITIONS)), np.int32)
        self.history = np.zeros((count, context), np.int32)
        self.specs = np.zeros(count, SAMPLE_SPEC)
        self._mask_words = -(-vocabulary // 32)
        self._masks = np.zeros((0, 0), np.uint32)
        self._table_lengths = [0] * count
        self._biases: list[tuple[NDArray[np.int32], NDArray[np.float32]] | None] = [None] * count
        self._stays: list[tuple[Sequence, int] | None] = [None] * count
        """Whose stay in the slot the arrays hold: a sequence that was preempted comes back with other blocks, perhaps to another slot."""

    def update(self, sequence: Sequence) -> None:
        """Bring the slot of a sequence up to date; its own tokens after the first step are written by the engine."""
        slot, blocks = sequence.slot, sequence.blocks
        if self._stays[slot] != (sequence, sequence.stay):
            self._fill(sequence)
        known = self._table_lengths[slot]
        if known < len(blocks):
            self.tables[slot, known : len(blocks)] = blocks[known:]
            self._table_lengths[slot] = len(blocks)

    def forget(self, slot: int) -> None:
        """The slot's sequence has left it."""
        self._stays[slot] = None

    def mask(self, slot: int) -> memoryview:
        """Where the slot's grammar writes the tokens that it allows."""
        return memoryview(self._masks[slot]).cast("B").cast("i")

    def _fill(self, sequence: Sequence) -> None:
        slot, sampling = sequence.slot, sequence.request.sampling
        self._stays[slot] = sequence, sequence.stay
        self._table_lengths[slot] = 0
        self.history[slot, : len(sequence.tokens)] = sequence.tokens
        spec = self.specs[slot]
        spec["target"] = -1
        spec["top_k"] = max(0, sampling.top_k)
        spec["alternatives"] = -1 if sampling.logprobs is None else sampling.logprobs
        spec["temperature"], spec["top_p"], spec["min_p"] = sampling.temperature, sampling.top_p, sampling.min_p
        spec["presence"], spec["frequency"] = sampling.presence_penalty, sampling.frequency_penalty
        spec["repetition"], spec["seed"] = sampling.repetition_penalty, sequence.seed
        spec["history"], spec["prompt"] = self.history[slot].ctypes.data, sequence.prompt_length
        spec["biases"] = len(sampling.logit_bias)
        if sampling.logit_bias:
            tokens = np.fromiter(sampling.logit_bias.keys(), np.int32)
            values = np.fromiter(sampling.logit_bias.values(), np.float32)
            self._biases[slot] = tokens, values
            spec["bias_tokens"], spec["bias_values"] = tokens.ctypes.data, values.ctypes.data
        spec["mask"] = 0
        if sequence.request.mask is not None:
            if not self._masks.size:
                self._masks = np.zeros((len(self.specs), self._mask_words), np.uint32)
            spec["mask"] = self._masks[slot].ctypes.data
