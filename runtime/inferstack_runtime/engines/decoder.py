"""A decoder in memory: packed weights, the KV cache, and the native step over them."""

import ctypes
import mmap
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime import kernels
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.packed import PackedMatrix, load_packed, neighbours
from inferstack_runtime.engines.source import MATRICES, OPTIONAL_VECTORS, VECTORS, ModelSource, vector

_STEP_ERRORS = {1: "the batch is not valid", 2: "out of memory"}


class StepDecoder(Protocol):
    """What the engine needs of a model; `Decoder` says what each means."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_dtype(self) -> str:
        """How keys and values are kept."""

    @property
    def reuses_prefixes(self) -> bool:
        """Whether a sequence may start from blocks that another one computed."""

    def allocate_cache(self, blocks: int) -> None: ...
    def step(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        segments: NDArray[np.void],
        tables: NDArray[np.int32],
        specs: NDArray[np.void],
        results: NDArray[np.void],
    ) -> None: ...
    def close(self) -> None: ...


class StepFailed(Exception):
    """A step could not run; no request of it made progress."""


class Decoder:
    """The native model. Not safe for use by two threads at once."""

    reuses_prefixes = True

    def __init__(
        self,
        source: ModelSource,
        quantization: str,
        *,
        context: int,
        threads: int,
        cache: Path | None = None,
        cache_type: str = "bf16",
        library: kernels.Library | None = None,
    ) -> None:
        """Raises `ModelLoadError`."""
        self._library = library or kernels.load()
        self.shape, self.threads, self.quantization = source.shape, threads, quantization
        self.vocabulary = source.shape.vocabulary
        self._matrices = load_packed(source, quantization, cache, self._library)
        self._vectors = {name: self._vector(source, name) for name, tensor in source.tensors.items() if len(tensor.shape) == 1}
        self._rotation = source.shape.rotation(context)
        self._layers = (kernels.Layer * source.shape.layers)(*(self._layer(i) for i in range(source.shape.layers)))
        self._spec = self._model_spec(source, context, cache_type)
        self._handle = self._library.c.inferstack_model_new(ctypes.byref(self._spec), threads)
        if not self._handle:
            raise ModelLoadError(f"{source.path}: no memory for {threads} threads")
        self.block_bytes = int(self._library.c.inferstack_cache_block_bytes(self._handle))
        self.variant = self._library.variant
        self.kv_dtype = "fp32" if cache_type == "f32" else cache_type
        self._cache: NDArray[np.uint8] | None = None
        self._batch = kernels.Batch()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all packed matrices and vectors."""
        return sum(m.data.nbytes for m in self._matrices.values()) + sum(v.nbytes for v in self._vectors.values())

    def allocate_cache(self, blocks: int) -> None:
        """Reserve the KV cache; pages are taken from the system only when first written."""
        try:
            self._cache_map = mmap.mmap(-1, max(blocks, 1) * self.block_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as error:
            raise ModelLoadError(
                f"engine.kv_cache_bytes: no room for a KV cache of {blocks} blocks of {self.block_bytes} bytes: {error}"
            ) from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._cache_map.madvise(mmap.MADV_HUGEPAGE)
        self._cache = np.frombuffer(self._cache_map, np.uint8)

    def step(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        segments: NDArray[np.void],
        tables: NDArray[np.int32],
        specs: NDArray[np.void],
        results: NDArray[np.void],
        logits: NDArray[np.float32] | None = None,
    ) -> None:
        """One forward pass over all rows, then a token (or a log-probability) for each of `specs`, written to `results`.

        `logits` [specs][vocabulary] takes the logits that they came from.

        Raises `StepFailed`.
        """
        assert self._cache is not None
        batch = self._batch
        batch.rows, batch.segments, batch.samples, batch.table_stride = len(tokens), len(segments), len(specs), tables.shape[1]
        batch.tokens, batch.positions = tokens.ctypes.data, positions.ctypes.data
        batch.segment, batch.tables, batch.cache = segments.ctypes.data, tables.ctypes.data, self._cache.ctypes.data
        batch.specs, batch.results = specs.ctypes.data, results.ctypes.data
        batch.logits = None if logits is None else logits.ctypes.data
        if status := self._library.c.inferstack_step(self._handle, ctypes.byref(batch)):
            raise StepFailed(_STEP_ERRORS.get(status, f"status {status}"))

    def close(self) -> None:
        if self._handle:
            self._library.c.inferstack_model_free(self._handle)
        self._handle = None
        self._cache = None

    def _vector(self, source: ModelSource, name: str) -> NDArray[np.float32]:
        values = vector(source.tensors[name], source.path, name)
        kind = name.rpartition(".")[2]
        if source.shape.rotates_halves and kind in ("query_bias", "key_bias", "query_norm", "key_norm"):
            values = values[neighbours(len(values), source.shape.head_dim)]
        return np.ascontiguousarray(values)

    def _layer(self, index: int) -> kernels.Layer:
        layer = kernels.Layer()
        for name in MATRICES:
            setattr(layer, name, _matrix(self._matrices[f"{index}.{name}"]))
        for name in (*VECTORS, *OPTIONAL_VECTORS):
            values = self._vectors.get(f"{index}.{name}")
            setattr(layer, name, None if values is None else values.ctypes.data)
        return layer

    def _model_spec(self, source: ModelSource, context: int, cache_type: str) -> kernels.ModelSpec:
        shape = source.shape
        embedding = _matrix(self._matrices["embedding"])
        return kernels.ModelSpec(
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            key_value_heads=shape.key_value_heads,
            head_dim=shape.head_dim,
            feed_forward=shape.feed_forward,
            vocabulary=shape.vocabulary,
            window=shape.window,
            cache_type=kernels.CACHE_TYPES[cache_type],
            max_positions=context,
            epsilon=shape.epsilon,
            embedding=embedding,
            head=embedding if source.tied else _matrix(self._matrices["head"]),
            final_norm=self._vectors["final_norm"].ctypes.data,
            rotation=self._rotation.ctypes.data,
            layer=self._layers,
        )


def _matrix(matrix: PackedMatrix) -> kernels.Matrix:
    return kernels.Matrix(matrix.data.ctypes.data, kernels.FORMATS[matrix.format], matrix.n, matrix.k)
