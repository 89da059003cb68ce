"""Writes a GGUF model with its 4-bit matrices as another type, to compare with engines that are fast on that type only."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.gguf import GgufFile, Tensor
from inferstack_runtime.kernels import Library

TARGETS = {"Q4_0": 2, "Q8_0": 8}
_Q4_1 = 3


def convert(path: Path, kind: str, output: Path, library: Library) -> int:
    """Copy `path` to `output` with every Q4_1 matrix as `kind` (nearest values); returns how many were changed. Raises `ModelLoadError`."""
    if kind not in TARGETS:
        raise ModelLoadError(f"type {kind!r}: expected one of {', '.join(TARGETS)}")

    def change(tensor: Tensor) -> tuple[int, NDArray[np.uint8]] | None:
        if tensor.type != _Q4_1:
            return None
        return TARGETS[kind], _blocks(library.unpack_source(_Q4_1, tensor.data, int(np.prod(tensor.shape))), kind)

    return rewrite(path, output, change)


def rewrite(path: Path, output: Path, change: Callable[[Tensor], tuple[int, NDArray[np.uint8]] | None]) -> int:
    """Copy a GGUF file to `output`; `change` gives a tensor's new type and blocks, or None where it stays. Returns how many changed."""
    file = GgufFile(path)
    infos, data, changed = b"", [], 0
    offset = 0
    for tensor in file.tensors.values():
        number, content = tensor.type, tensor.data
        if (new := change(tensor)) is not None:
            number, content = new
            changed += 1
        name = tensor.name.encode()
        infos += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.shape))
        infos += b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape)) + struct.pack("<IQ", number, offset)
        padding = -content.nbytes % file.alignment
        data.append(content.tobytes() + bytes(padding))
        offset += content.nbytes + padding
    head = path.read_bytes()[: file.metadata_end]
    with output.open("wb") as handle:
        handle.write(head + infos)
        handle.write(bytes(-handle.tell() % file.alignment))
        handle.writelines(data)
    return changed


def _blocks(weights: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    groups = weights.reshape(-1, 32)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
    scale = (extreme / (-8 if kind == "Q4_0" else 127)).astype(np.float16)
    divisor = scale.astype(np.float32)
    codes = np.divide(groups, divisor, out=np.zeros_like(groups), where=divisor != 0)
    if kind == "Q8_0":
        body = np.clip(np.rint(codes), -127, 127).astype(np.int8).view(np.uint8)
    else:
        nibbles = np.clip(np.rint(codes) + 8, 0, 15).astype(np.uint8)
        body = nibbles[:, :16] | nibbles[:, 16:] << 4
    return np.concatenate([scale.view(np.uint8).reshape(-1, 2), body], axis=1).reshape(-1)
