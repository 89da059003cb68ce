"""What a model file holds, in this engine's words, whatever the file's format."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines import tokenizer as tokenizers
from inferstack_runtime.engines.base import ModelLoadError, Tokenizer
from inferstack_runtime.engines.gguf import BLOCKS, GgufFile
from inferstack_runtime.engines.gguf import Tensor as GgufTensor
from inferstack_runtime.engines.shape import DecoderShape, shape_from_gguf

MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
VECTORS = ("attention_norm", "feed_forward_norm")
OPTIONAL_VECTORS = ("query_bias", "key_bias", "value_bias", "query_norm", "key_norm")

_GGUF_LAYER = {
    "query": "attn_q.weight",
    "key": "attn_k.weight",
    "value": "attn_v.weight",
    "output": "attn_output.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "attention_norm": "attn_norm.weight",
    "feed_forward_norm": "ffn_norm.weight",
    "query_bias": "attn_q.bias",
    "key_bias": "attn_k.bias",
    "value_bias": "attn_v.bias",
    "query_norm": "attn_q_norm.weight",
    "key_norm": "attn_k_norm.weight",
}
_GGUF_GLOBAL = {"embedding": "token_embd.weight", "head": "output.weight", "final_norm": "output_norm.weight"}


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


def open_model(path: Path, cache: Path | None) -> ModelSource:
    """Open a GGUF file or a folder with config.json and safetensors; `cache` remembers digests. Raises `ModelLoadError`."""
    if path.is_dir():
        from inferstack_runtime.engines.folder import open_folder

        return open_folder(path, cache)
    return open_gguf(path, cache)


def open_gguf(path: Path, cache: Path | None) -> ModelSource:
    """Open a GGUF model; raises `ModelLoadError`."""
    file = GgufFile(path)
    factors = file.tensors.get("rope_freqs.weight")
    if factors is not None and factors.type != 0:
        raise ModelLoadError(f"{path}: rope_freqs.weight: is {factors.type_name}, expected F32")
    shape = shape_from_gguf(file.metadata, file.tensors, None if factors is None else factors.data.view(np.float32), path)
    tensors = {name: file.tensors[stored] for name, stored in _GGUF_GLOBAL.items() if stored in file.tensors}
    for layer in range(shape.layers):
        for name, stored in _GGUF_LAYER.items():
            if (tensor := file.tensors.get(f"blk.{layer}.{stored}")) is not None:
                tensors[f"{layer}.{name}"] = tensor
    known = {tensor.name for tensor in tensors.values()} | {"rope_freqs.weight"}
    unknown = sorted(set(file.tensors) - known)
    if unknown:
        raise ModelLoadError(f"{path}: {unknown[0]}: a tensor that a {shape.architecture} model does not have ({len(unknown)} such)")
    template = file.metadata.get("tokenizer.chat_template")
    source = ModelSource(
        path=path,
        digest=digest_of(path, cache),
        shape=shape,
        tensors={name: _stored(tensor) for name, tensor in tensors.items()},
        tokenizer=tokenizers.from_gguf(file.metadata, path),
        chat_template=template if isinstance(template, str) else None,
        special_tokens=tokenizers.special_tokens(file.metadata, path),
        end_tokens=tokenizers.end_tokens(file.metadata, path),
        tied="head" not in tensors,
    )
    check_tensors(source)
    return source


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
    for layer in range(shape.layers):
        expected |= {f"{layer}.{name}": size for name, size in layer_shapes.items()}
    for name, size in expected.items():
        tensor = source.tensors.get(name)
        if tensor is None:
            if name.rpartition(".")[2] in OPTIONAL_VECTORS:
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


def _stored(tensor: GgufTensor) -> Stored:
    return Stored(tensor.type, tensor.shape, tensor.data)
