"""Reader of safetensors files: mapped tensors, every offset checked. Format: https://github.com/huggingface/safetensors#format"""

import json
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from inferstack_runtime.engines.gguf import InvalidModelFile, UnsupportedType, check_apart
from inferstack_runtime.engines.source import Stored

TYPES = {"F32": (0, 4), "F16": (1, 2), "BF16": (30, 2)}
"""Types that are read: GGUF number and bytes per weight."""
_OTHERS: tuple[str, ...] = ("F64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4", "C64")
_OTHERS += ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")
"""Types of the format that are not read here."""
_MAX_HEADER = 100 << 20


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of one file; raises `InvalidModelFile`, also for a tensor of another type."""
    try:
        with path.open("rb") as handle:
            data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InvalidModelFile(path, "file", 0, error.strerror or str(error)) from None
    except ValueError:
        raise InvalidModelFile(path, "file", 0, "is empty; expected safetensors") from None
    if len(data) < 8:
        raise InvalidModelFile(path, "header length", 0, f"needs 8 bytes, the file has {len(data)}")
    size = struct.unpack("<Q", data[:8])[0]
    if size > _MAX_HEADER or 8 + size > len(data):
        raise InvalidModelFile(path, "header length", 0, f"is {size}, the file has {len(data)} bytes")
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(path, "header", 8, f"is not JSON of tensors ({error})") from None
    if not isinstance(header, dict):
        raise InvalidModelFile(path, "header", 8, "is not an object")
    tensors, spans = {}, []
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name], span = _tensor(path, data, 8 + size, name, entry)
            spans.append((*span, name))
    check_apart(path, spans)
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; the same name twice would leave one of two tensors unread."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice")
        found[name] = value
    return found


def _tensor(path: Path, data: mmap.mmap, start: int, name: str, entry: Any) -> tuple[Stored, tuple[int, int]]:
    """A tensor, and where its bytes begin and end in the file."""
    try:
        kind, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sizes = isinstance(kind, str) and all(type(number) is int and number >= 0 for number in (*shape, first, last))
    except (TypeError, KeyError, ValueError):
        sizes = False
    if not sizes:
        raise InvalidModelFile(path, name, 8, "needs dtype, shape and data_offsets")
    if kind not in TYPES:
        error = UnsupportedType if kind in _OTHERS else InvalidModelFile
        raise error(path, name, 8, f"is {kind}, the native engine reads {', '.join(TYPES)}")
    number, width = TYPES[kind]
    count = 1
    for dimension in shape:
        count *= dimension
    if last - first != count * width or start + last > len(data):
        raise InvalidModelFile(path, name, start + first, f"needs {count * width} bytes up to {start + last}, the file has {len(data)}")
    if count == 0:
        return Stored(number, shape, np.empty(0, np.uint8)), (start, start)
    return Stored(number, shape, np.frombuffer(data, np.uint8, count * width, start + first)), (start + first, start + last)
