"""Reader of GGUF files (versions 2 and 3, little endian): metadata and mapped tensors.

    file = GgufFile(path)                      # raises InvalidModelFile
    file.metadata["general.architecture"]        # 'llama'
    file.tensors["token_embd.weight"].data       # uint8, mapped, not read until touched

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.shape import UnsupportedArchitecture

MAGIC = b"GGUF"
MAX_ELEMENTS = 1 << 40
"""More elements than this in one tensor or array can only be a damaged header."""

BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
"""Tensor types: name, weights per block, bytes per block."""

_OTHERS = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S"}
_OTHERS |= {23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
"""Tensor types of the format that are not read here."""

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


class InvalidModelFile(ModelLoadError):
    """A model file is damaged or not what it says; the message names the file, the field and the byte."""

    def __init__(self, path: Path, field: str, offset: int, problem: str) -> None:
        super().__init__(f"{path}: {field} at byte {offset}: {problem}")
        self.path, self.field, self.offset, self.problem = path, field, offset, problem


class UnsupportedType(InvalidModelFile, UnsupportedArchitecture):
    """A tensor has a type that the native engine does not read; the transformers engine may."""


def check_apart(path: Path, spans: Iterable[tuple[int, int, str]]) -> None:
    """Raise `InvalidModelFile` where two tensors share bytes; a span is the first byte, the byte after the last, and the name."""
    end, before = 0, ""
    for first, last, name in sorted(span for span in spans if span[0] < span[1]):
        if first < end:
            raise InvalidModelFile(path, f"data of {name}", first, f"overlaps that of {before}, which ends at {end}")
        end, before = last, name


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file. `shape` is row-major: outputs first, the contiguous inputs last."""

    name: str
    type: int
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    @property
    def type_name(self) -> str:
        return BLOCKS[self.type][0]


class GgufFile:
    """A parsed file. Stays mapped while any tensor is alive."""

    def __init__(self, path: Path) -> None:
        """Raises `InvalidModelFile`; every length and offset is checked against the file's size before it is used."""
        self.path = path
        try:
            with path.open("rb") as handle:
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InvalidModelFile(path, "file", 0, error.strerror or str(error)) from None
        except ValueError:
            raise InvalidModelFile(path, "file", 0, "is empty; expected a GGUF model") from None
        self._at = 0
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self._read()

    def _read(self) -> None:
        if self._take(4, "magic") != MAGIC:
            raise self._error("magic", 0, f"is {bytes(self._map[:4])!r}, expected {MAGIC!r}: not a GGUF file")
        version = self._number("<I", "version")
        if version not in (2, 3):
            raise self._error("version", 4, f"is {version}, expected 2 or 3")
        tensors, pairs = self._number("<Q", "tensor count"), self._number("<Q", "metadata count")
        for name, count in (("tensor count", tensors), ("metadata count", pairs)):
            if count * 12 > len(self._map):
                raise self._error(name, 8, f"is {count}, more than fit into {len(self._map)} bytes")
        for i in range(pairs):
            at = self._at
            key = self._string(f"key {i} of the metadata")
            if key in self.metadata:
                raise self._error(key, at, "stands twice")
            self.metadata[key] = self._value(self._number("<I", f"type of {key}"), key)
        self.metadata_end = self._at
        """Byte after the metadata, where the tensors' descriptions begin."""
        infos = [self._tensor_info(i) for i in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise self._error("general.alignment", self._at, f"is {alignment!r}, expected a multiple of 8")
        self.alignment = alignment
        start = -(-self._at // alignment) * alignment
        for name, kind, shape, offset, at in infos:
            self._map_tensor(name, kind, shape, start + offset, at, offset % alignment == 0)
        spans = [(start + offset, start + offset + self.tensors[name].data.nbytes, name) for name, _, _, offset, _ in infos]
        check_apart(self.path, spans)

    def _tensor_info(self, index: int) -> tuple[str, int, tuple[int, ...], int, int]:
        at = self._at
        name = self._string(f"name of tensor {index}")
        rank = self._number("<I", f"rank of {name}")
        if not 1 <= rank <= 4:
            raise self._error(f"rank of {name}", at, f"is {rank}, expected 1 to 4")
        shape = tuple(self._number("<Q", f"shape of {name}") for _ in range(rank))
        kind, offset = self._number("<I", f"type of {name}"), self._number("<Q", f"offset of {name}")
        return name, kind, shape[::-1], offset, at

    def _map_tensor(self, name: str, kind: int, shape: tuple[int, ...], start: int, at: int, is_aligned: bool) -> None:
        if kind in _OTHERS:
            problem = f"is {_OTHERS[kind]}, the native engine reads {', '.join(label for label, _, _ in BLOCKS.values())}"
            raise UnsupportedType(self.path, f"type of {name}", at, problem)
        if kind not in BLOCKS:
            raise self._error(f"type of {name}", at, f"is {kind}, expected one of {', '.join(f'{k} ({v[0]})' for k, v in BLOCKS.items())}")
        label, weights, size = BLOCKS[kind]
        count = 1
        for dimension in shape:
            count *= dimension
            if not 0 < dimension <= MAX_ELEMENTS or count > MAX_ELEMENTS:
                raise self._error(f"shape of {name}", at, f"is {list(shape)}: not a size that a tensor has")
        if shape[-1] % weights:
            raise self._error(f"shape of {name}", at, f"{label} needs rows of a multiple of {weights}, not {shape[-1]}")
        length = count // weights * size
        if not is_aligned or start + length > len(self._map):
            raise self._error(f"data of {name}", start, f"needs {length} bytes up to {start + length}, the file has {len(self._map)}")
        if name in self.tensors:
            raise self._error(f"name of {name}", at, "stands twice")
        self.tensors[name] = Tensor(name, kind, shape, np.frombuffer(self._map, np.uint8, length, start))

    def _value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], key)
        if kind == _STRING:
            return self._string(key)
        if kind != _ARRAY or depth > 3:
            raise self._error(f"type of {key}", self._at - 4, f"is {kind}, expected 0 to 12")
        inner, count = self._number("<I", f"element type of {key}"), self._number("<Q", f"length of {key}")
        if inner in _SCALARS:
            form = np.dtype(_SCALARS[inner])
            if count > MAX_ELEMENTS:
                raise self._error(f"length of {key}", self._at - 8, f"is {count}")
            return np.frombuffer(self._take(count * form.itemsize, key), form).tolist()
        if count * 8 > len(self._map) - self._at:
            raise self._error(f"length of {key}", self._at - 8, f"is {count}, more than the file holds")
        if inner == _STRING:
            read: Callable[[str], str] = self._string
            return [read(key) for _ in range(count)]
        return [self._value(inner, key, depth + 1) for _ in range(count)]

    def _take(self, size: int, field: str) -> bytes:
        end = self._at + size
        if end > len(self._map):
            raise self._error(field, self._at, f"needs {size} bytes, the file ends at {len(self._map)}")
        data = self._map[self._at : end]
        self._at = end
        return data

    def _number(self, form: str, field: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form), field))[0]

    def _string(self, field: str) -> str:
        at = self._at
        data = self._take(self._number("<Q", f"length of {field}"), field)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._error(field, at + 8 + error.start, "is not UTF-8") from None

    def _error(self, field: str, offset: int, problem: str) -> InvalidModelFile:
        return InvalidModelFile(self.path, field, offset, problem)
