"""What a model file holds, in this engine's words, whatever the file's format."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.base import ModelLoadError, Tokenizer
from inferstack_runtime.engines.gguf import BLOCKS
from inferstack_runtime.engines.shape import DecoderShape

MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
VECTORS = ("attention_norm", "feed_forward_norm")
_OWN_VECTORS = {"qwen2": ("query_bias", "key_bias", "value_bias"), "qwen3": ("query_norm", "key_norm")}
"""Architecture → vectors that others need not have."""
OPTIONAL_VECTORS = ("query_bias", "key_bias", "value_bias", "query_norm", "key_norm")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as stored: GGUF type number, row-major shape, bytes (mapped)."""

    type: int
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """An opened model. Tensor names: `embedding`, `head`, `final_norm`, and `LAYER.NAME` with the names above."""

    path: Path
    digest: str
    shape: DecoderShape
    tensors: Mapping[str, Stored]
    tokenizer: Tokenizer
    chat_template: str | None
    special_tokens: Mapping[str, str]
    end_tokens: frozenset[int]
    tied: bool
    """The head is the embedding."""


def check_tensors(source: ModelSource) -> None:
    """Raise `ModelLoadError` for the first tensor that is missing or has another shape than the sizes ask for."""
    shape = source.shape
    query, keys = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    expected: dict[str, tuple[int, ...]] = {"embedding": (shape.vocabulary, shape.hidden), "final_norm": (shape.hidden,)}
    if not source.tied:
        expected["head"] = (shape.vocabulary, shape.hidden)
    layer_shapes: dict[str, tuple[int, ...]] = {
        "query": (query, shape.hidden),
        "key": (keys, shape.hidden),
        "value": (keys, shape.hidden),
        "output": (shape.hidden, query),
        "gate": (shape.feed_forward, shape.hidden),
        "up": (shape.feed_forward, shape.hidden),
        "down": (shape.hidden, shape.feed_forward),
        "attention_norm": (shape.hidden,),
        "feed_forward_norm": (shape.hidden,),
        "query_bias": (query,),
        "key_bias": (keys,),
        "value_bias": (keys,),
        "query_norm": (shape.head_dim,),
        "key_norm": (shape.head_dim,),
    }
    there = {name.rpartition(".")[2] for name in source.tensors} | set(_OWN_VECTORS.get(shape.architecture, ()))
    absent = [name for name in OPTIONAL_VECTORS if name not in there]
    for layer in range(shape.layers):
        expected |= {f"{layer}.{name}": size for name, size in layer_shapes.items()}
    for name, size in expected.items():
        tensor = source.tensors.get(name)
        if tensor is None:
            if name.rpartition(".")[2] in absent:
                continue
            raise ModelLoadError(f"{source.path}: {name}: missing, expected shape {list(size)}")
        if tensor.shape != size:
            raise ModelLoadError(f"{source.path}: {name}: has shape {list(tensor.shape)}, expected {list(size)}")
    if source.tokenizer.vocabulary_size > shape.vocabulary:
        raise ModelLoadError(f"{source.path}: {source.tokenizer.vocabulary_size} tokens, but embeddings for {shape.vocabulary}")


def vector(tensor: Stored, path: Path, name: str) -> NDArray[np.float32]:
    """A stored vector as float32; raises `ModelLoadError` for a type that vectors do not have, or a value that is not finite."""
    kind = BLOCKS[tensor.type][0]
    if kind == "F32":
        values = tensor.data.view(np.float32).copy()
    elif kind == "F16":
        values = tensor.data.view(np.float16).astype(np.float32)
    elif kind == "BF16":
        values = (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        raise ModelLoadError(f"{path}: {name}: is {kind}, expected F32, F16 or BF16")
    if not np.isfinite(values).all():
        raise ModelLoadError(f"{path}: {name}: holds a value that is not finite")
    return values


def digest_of(path: Path, cache: Path | None) -> str:
    """`sha256:` of a file; remembered in `cache` by size, inode and time of change."""
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_ino} {status.st_mtime_ns}".encode()).hexdigest()
    note = None if cache is None else cache / "digests" / key
    if note is not None:
        try:
            known = json.loads(note.read_text())["digest"]
            if isinstance(known, str) and known.startswith("sha256:"):
                return known
        except (OSError, ValueError, KeyError, TypeError):
            pass
    with path.open("rb") as handle:
        digest = f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"
    if note is not None:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({"digest": digest, "path": str(path)}))
            partial.replace(note)
        except OSError:
            pass  # a cache that cannot be written costs time, not correctness
    return digest
