"""Packed weights and their cache: one file per model, format and layout, mapped and so shared by all processes of a machine.

A file is `INFSPACK`, the length of a JSON header, the header (tensors with format, shape and offset), then 64-byte aligned data.
It is written beside its place and renamed, so a reader sees a whole file or none.
"""

import contextlib
import json
import logging
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.gguf import BLOCKS
from inferstack_runtime.engines.source import MATRICES, ModelSource, Stored
from inferstack_runtime.kernels import Library

LAYOUT = 2
"""Raised whenever formats.h changes."""
_MAGIC = b"INFSPACK"
_ALIGNMENT = 64
_SHARE = 64
"""Panels that one packing task takes."""

log = logging.getLogger(__name__)

FORMATS: Mapping[str, Mapping[str, str]] = {
    "none": {"layers": "bf16", "head": "bf16"},
    "bf16": {"layers": "bf16", "head": "bf16"},
    "fp16": {"layers": "f16", "head": "f16"},
    "int8": {"layers": "w8_channel", "head": "w8_group"},
    "int4": {"layers": "w4_minimum", "head": "w8_group"},
    "nf4": {"layers": "nf4", "head": "w8_group"},
    "gguf": {},
}
"""Quantization → packed format of the layers' matrices and of embedding and head; `gguf` follows the file.

`none` rounds F32 and F16 to bfloat16."""

_AS_SHIPPED = {
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "Q4_0": "w4_group",
    "Q4_1": "w4_minimum",
    "Q8_0": "w8_group",
    "Q5_0": "w8_group",
    "Q5_1": "f16",
    "Q2_K": "w8_group",
    "Q3_K": "w8_group",
    "Q4_K": "w4_minimum",
    "Q5_K": "w8_group",
    "Q6_K": "w8_group",
}
"""GGUF type → packed format. Q4_K keeps its codes, with scales rounded to half; the other K types go to the nearest of 8 bits."""


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix in one of the formats of kernels/formats.h."""

    format: str
    n: int
    k: int
    data: NDArray[np.uint8]


def load_packed(source: ModelSource, quantization: str, cache: Path | None, library: Library) -> dict[str, PackedMatrix]:
    """Every matrix of a model, from the cache or else packed now (and cached, where the cache can be written).

    Raises `ModelLoadError` for a quantization or tensor type that the kernels do not have.
    """
    plan = {name: (packed_format(source, name, quantization), source.tensors[name]) for name in _matrices(source)}
    entries: dict[str, dict[str, Any]] = {}
    offset = 0
    for name, (form, tensor) in plan.items():
        size = library.packed_bytes(form, *tensor.shape)
        entries[name] = {"format": form, "n": tensor.shape[0], "k": tensor.shape[1], "offset": offset, "bytes": size}
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"layout": LAYOUT, "digest": source.digest, "quantization": quantization, "tensors": entries}).encode()
    start = -(-(16 + len(header)) // _ALIGNMENT) * _ALIGNMENT
    prefix = _MAGIC + struct.pack("<Q", len(header)) + header
    path = None if cache is None else packed_path(source, quantization, cache)
    data = None if path is None else _map(path, prefix, start + offset)
    if data is None:
        data = _pack_all(source, plan, entries, prefix, start, offset, path, library)
    return {
        name: PackedMatrix(entry["format"], entry["n"], entry["k"], data[start + entry["offset"] :][: entry["bytes"]])
        for name, entry in entries.items()
    }


def packed_path(source: ModelSource, quantization: str, cache: Path) -> Path:
    """Where the packed weights of a model and format are kept."""
    return cache / "packed" / f"{source.digest.removeprefix('sha256:')}-{quantization}-{LAYOUT}.pack"


def packed_format(source: ModelSource, name: str, quantization: str) -> str:
    """The packed format of matrix `name`."""
    if quantization not in FORMATS:
        raise ModelLoadError(f"quantization {quantization!r}: the native engine has {', '.join(FORMATS)}")
    kind = BLOCKS[source.tensors[name].type][0]
    if kind not in _AS_SHIPPED:
        raise ModelLoadError(f"{source.path}: {name}: is {kind}, the native engine reads {', '.join(_AS_SHIPPED)}")
    if quantization == "gguf":
        return _AS_SHIPPED[kind]
    return FORMATS[quantization]["head" if name in ("embedding", "head") else "layers"]


def _matrices(source: ModelSource) -> Iterable[str]:
    yield "embedding"
    for layer in range(source.shape.layers):
        yield from (f"{layer}.{name}" for name in MATRICES)
    if not source.tied:
        yield "head"


def _map(path: Path, prefix: bytes, size: int) -> NDArray[np.uint8] | None:
    """The cached file, if it is whole and for exactly this content."""
    try:
        with path.open("rb") as handle:
            if os.fstat(handle.fileno()).st_size != size or handle.read(len(prefix)) != prefix:
                log.warning("packed weights are of another build or damaged, packing anew", extra={"path": str(path)})
                return None
            return np.frombuffer(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError:
        return None


def _pack_all(
    source: ModelSource,
    plan: Mapping[str, tuple[str, Stored]],
    entries: Mapping[str, Mapping[str, Any]],
    prefix: bytes,
    start: int,
    size: int,
    path: Path | None,
    library: Library,
) -> NDArray[np.uint8]:
    partial = None if path is None else path.with_suffix(f".{os.getpid()}.partial")
    data: NDArray[np.uint8] | None = None
    if partial is not None:
        try:
            data = _create(partial, start + size)
        except OSError as error:
            log.warning("packed weights cannot be cached: %s", error, extra={"path": str(path)})
            partial = None
    if data is None:
        data = np.frombuffer(mmap.mmap(-1, start + size), np.uint8)
    data[: len(prefix)] = np.frombuffer(prefix, np.uint8)
    try:
        _pack_into(data[start:], source, plan, entries, library)
        if partial is not None and path is not None:
            partial.replace(path)
    except OSError as error:
        log.warning("packed weights cannot be cached: %s", error, extra={"path": str(path)})
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink()
    return data


def _pack_into(
    data: NDArray[np.uint8],
    source: ModelSource,
    plan: Mapping[str, tuple[str, Stored]],
    entries: Mapping[str, Mapping[str, Any]],
    library: Library,
) -> None:
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        jobs = []
        for name, (form, tensor) in plan.items():
            out = data[entries[name]["offset"] :]
            rows = _rotated_rows(source, name, tensor)
            panels = -(-tensor.shape[0] // 32)
            for first in range(0, panels, _SHARE):
                share = range(first, min(first + _SHARE, panels))
                jobs.append((name, pool.submit(library.pack, form, tensor.shape[0], tensor.shape[1], tensor.type, rows, out, share)))
        for name, job in jobs:
            try:
                job.result()
            except FloatingPointError as error:
                pool.shutdown(cancel_futures=True)
                raise ModelLoadError(f"{source.path}: {name}: {error}") from None


def _create(partial: Path, size: int) -> NDArray[np.uint8]:
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb+") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, size)  # a full disk is an error here, not a crash when a page is written
            return np.frombuffer(mmap.mmap(handle.fileno(), size), np.uint8)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def _rotated_rows(source: ModelSource, name: str, tensor: Stored) -> NDArray[np.uint8]:
    """The tensor's bytes; where halves of a head rotate against each other, with its rows in the order that makes partners neighbours."""
    if not source.shape.rotates_halves or name.rpartition(".")[2] not in ("query", "key"):
        return tensor.data
    rows = tensor.data.reshape(tensor.shape[0], -1)
    return np.ascontiguousarray(rows[neighbours(tensor.shape[0], source.shape.head_dim)]).reshape(-1)


def neighbours(rows: int, head_dim: int) -> NDArray[np.int64]:
    """Order of rows that puts i and i + head_dim / 2 of each head side by side."""
    head = np.arange(head_dim).reshape(2, -1).T.reshape(-1)
    return (np.arange(0, rows, head_dim)[:, None] + head).reshape(-1)
