"""The CPU kernels: loads the library for this CPU and gives its functions Python types.

    library = load()            # the best variant that this CPU runs
    library.pack(...)           # see library.cpp

Raises `KernelsUnavailable` when no library loads; the message names the file and what to do.
"""

import ctypes
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ABI_VERSION = 4
VARIANTS = ("portable", "avx2", "avxvnni", "avx512vnni")
"""Slowest first; `inferstack_cpu_variants` has a bit for each."""

FORMATS = {"f32": 0, "f16": 1, "bf16": 2, "w8_channel": 3, "w8_group": 4, "w4_group": 5, "w4_minimum": 6, "nf4": 7}
"""Packed formats, described in formats.h."""
CACHE_TYPES = {"bf16": 0, "int8": 1, "f32": 2}
BLOCK_POSITIONS = 32
"""Positions of one block of the KV cache."""
MAX_ALTERNATIVES = 20

_pointer = ctypes.c_void_p


class KernelsUnavailable(Exception):
    """The compiled kernels cannot be used on this machine."""


class Matrix(ctypes.Structure):
    """A packed matrix of `n` outputs and `k` inputs."""

    _fields_ = [("data", _pointer), ("format", ctypes.c_int32), ("n", ctypes.c_int32), ("k", ctypes.c_int32), ("reserved", ctypes.c_int32)]


class Layer(ctypes.Structure):
    """The weights of one decoder layer; biases and head norms may be null."""

    _fields_ = [
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *(
            (name, _pointer)
            for name in ("attention_norm", "feed_forward_norm", "query_bias", "key_bias", "value_bias", "query_norm", "key_norm")
        ),
    ]


class ModelSpec(ctypes.Structure):
    """A decoder: its shape and its weights."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "layers",
                "hidden",
                "heads",
                "key_value_heads",
                "head_dim",
                "feed_forward",
                "vocabulary",
                "window",
                "cache_type",
                "max_positions",
            )
        ),
        ("epsilon", ctypes.c_float),
        ("reserved", ctypes.c_int32),
        ("embedding", Matrix),
        ("head", Matrix),
        ("final_norm", _pointer),
        ("rotation", _pointer),
        ("layer", ctypes.POINTER(Layer)),
    ]


class Batch(ctypes.Structure):
    """The rows of one step; see step.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("rows", "segments", "samples", "table_stride")),
        *((name, _pointer) for name in ("tokens", "positions", "segment", "tables", "cache", "specs", "results", "logits")),
    ]


SEGMENT = np.dtype([("sequence", "<i4"), ("row", "<i4"), ("rows", "<i4")])
SAMPLE_SPEC = np.dtype(
    [
        ("row", "<i4"),
        ("target", "<i4"),
        ("top_k", "<i4"),
        ("alternatives", "<i4"),
        *((name, "<f4") for name in ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")),
        ("seed", "<u8"),
        ("position", "<u8"),
        *((name, "<u8") for name in ("history", "bias_tokens", "bias_values", "mask")),
        *((name, "<i4") for name in ("prompt", "length", "biases", "reserved")),
    ]
)
SAMPLE_RESULT = np.dtype(
    [
        ("token", "<i4"),
        ("status", "<i4"),
        ("logprob", "<f4"),
        ("alternatives", "<i4"),
        ("tokens", "<i4", (MAX_ALTERNATIVES,)),
        ("logprobs", "<f4", (MAX_ALTERNATIVES,)),
    ]
)


class Library:
    """One loaded variant. Its calls release the interpreter lock."""

    def __init__(self, variant: str) -> None:
        """Raises `KernelsUnavailable`: no file, not loadable here, or built from other sources than this package."""
        self.variant = variant
        self.path = Path(__file__).parent / f"_{variant}.so"
        if not self.path.exists():
            raise KernelsUnavailable(f"{self.path}: no such library; install the package anew with a C++ compiler on PATH")
        _check_whole(self.path)
        try:
            self.c: Any = ctypes.CDLL(str(self.path))
            self._declare()
        except (OSError, AttributeError) as error:
            raise KernelsUnavailable(f"{self.path}: does not load ({error}); install the package anew on this machine") from None
        sizes = (ctypes.c_int32 * 6)()
        self.c.inferstack_sizes(sizes)
        expected = [ctypes.sizeof(Matrix), ctypes.sizeof(Layer), ctypes.sizeof(ModelSpec), ctypes.sizeof(Batch)]
        expected += [SAMPLE_SPEC.itemsize, SAMPLE_RESULT.itemsize]
        if self.c.inferstack_abi_version() != ABI_VERSION or list(sizes) != expected:
            raise KernelsUnavailable(f"{self.path}: built from other sources than this package; install the package anew")

    def _declare(self) -> None:
        i32, i64, p = ctypes.c_int32, ctypes.c_int64, _pointer
        for name, result, arguments in (
            ("abi_version", i32, []),
            ("cpu_variants", i32, []),
            ("sizes", None, [p]),
            ("packed_bytes", i64, [i32, i32, i32]),
            ("pack", i32, [i32, i32, i32, i32, p, i32, i32, p]),
            ("unpack", None, [i32, i32, i32, p, i32, p]),
            ("unpack_source", i32, [i32, p, i64, p]),
            ("product", i32, [i32, i32, i32, p, p, i32, p]),
            ("sample", None, [p, i32, p, p]),
            ("limits", i32, [i32, i64, i32, p]),
            ("model_new", p, [ctypes.POINTER(ModelSpec), i32]),
            ("model_free", None, [p]),
            ("cache_block_bytes", i64, [p]),
            ("step", i32, [p, ctypes.POINTER(Batch)]),
        ):
            function = getattr(self.c, f"inferstack_{name}")
            function.restype, function.argtypes = result, arguments

    def packed_bytes(self, packed: str, n: int, k: int) -> int:
        """Bytes of a packed matrix."""
        return int(self.c.inferstack_packed_bytes(FORMATS[packed], n, k))

    def pack(self, packed: str, n: int, k: int, source: int, data: NDArray[np.uint8], out: NDArray[np.uint8], panels: range) -> None:
        """Pack some panels of `data` (row-major blocks of GGUF type `source`) into `out`, which is 64-byte aligned.

        Raises `FloatingPointError` for a weight or scale that is not finite, or not once it is packed.
        """
        status = self.c.inferstack_pack(FORMATS[packed], n, k, source, data.ctypes.data, panels.start, panels.stop, out.ctypes.data)
        if status == 2:
            raise FloatingPointError(f"holds a value that is not finite, or too large for {packed}")
        if status:
            raise ValueError(f"cannot pack type {source} of {n} x {k} as {packed}: inputs must be whole blocks and the type known")

    def unpack_source(self, source: int, data: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        """`count` weights of a GGUF tensor as float32."""
        out = np.empty(count, np.float32)
        if count % 32 or self.c.inferstack_unpack_source(source, data.ctypes.data, count // 32, out.ctypes.data):
            raise ValueError(f"cannot unpack {count} weights of type {source}: the number must be whole blocks and the type known")
        return out

    def unpack_row(self, packed: str, n: int, k: int, data: NDArray[np.uint8], row: int) -> NDArray[np.float32]:
        """Row `row` of a packed matrix, float32 [k]."""
        out = np.empty(k, np.float32)
        self.c.inferstack_unpack(FORMATS[packed], n, k, data.ctypes.data, row, out.ctypes.data)
        return out

    def product(self, packed: str, n: int, k: int, data: NDArray[np.uint8], x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [rows][n] = x [rows][k] times the transposed matrix, on one thread."""
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty((len(x), n), np.float32)
        if self.c.inferstack_product(FORMATS[packed], n, k, data.ctypes.data, x.ctypes.data, len(x), out.ctypes.data):
            raise MemoryError(f"product of {len(x)} rows of {k}")
        return out

    def limits(self, threads: int, size: int = 256 << 20, rounds: int = 5) -> tuple[float, float]:
        """What all `threads` together reach on this machine now: bytes read per second, 8-bit multiply-adds per second."""
        out = (ctypes.c_double * 2)()
        if self.c.inferstack_limits(threads, size, rounds, out):
            raise MemoryError(f"a buffer of {size} bytes")
        return out[0], out[1]


def _check_whole(path: Path) -> None:
    """Raise `KernelsUnavailable` for a library that was cut off: the system would load it and end the process at the first missing page."""
    with path.open("rb") as file:
        head = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if len(head) == 64 and head[:5] == b"\x7fELF\x02":
        (sections,), (width, count) = struct.unpack_from("<Q", head, 0x28), struct.unpack_from("<HH", head, 0x3A)
        if sections + width * count > size:  # the table of sections is the last thing in the file
            raise KernelsUnavailable(f"{path}: is cut off after {size} bytes; install the package anew")


def aligned(size: int) -> NDArray[np.uint8]:
    """Fresh bytes at a 64-byte boundary, as packed matrices need."""
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size]


@cache
def load(variant: str | None = None) -> Library:
    """The library of `variant`, by default `$INFERSTACK_KERNELS` or else the best that this CPU runs."""
    variant = variant or os.environ.get("INFERSTACK_KERNELS") or supported()[-1]
    if variant not in VARIANTS:
        raise KernelsUnavailable(f"kernels {variant!r}: no such variant; expected one of {', '.join(VARIANTS)}")
    if not _runs(variant):
        raise KernelsUnavailable(f"kernels {variant!r}: this CPU does not run them; it runs {', '.join(filter(_runs, VARIANTS))}")
    return Library(variant)


def supported() -> tuple[str, ...]:
    """The variants that are built and that this CPU runs, simplest first."""
    return tuple(name for name in VARIANTS if _runs(name) and (name == "portable" or (Path(__file__).parent / f"_{name}.so").exists()))


def _runs(variant: str) -> bool:
    return bool(Library("portable").c.inferstack_cpu_variants() >> VARIANTS.index(variant) & 1)
