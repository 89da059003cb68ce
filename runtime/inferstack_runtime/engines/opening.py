"""Opens a model as it lies on disk: a GGUF file, or a folder with safetensors."""

from pathlib import Path

import numpy as np

from inferstack_runtime.engines import tokenizer as tokenizers
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.folder import open_folder
from inferstack_runtime.engines.gguf import GgufFile
from inferstack_runtime.engines.gguf import Tensor as GgufTensor
from inferstack_runtime.engines.shape import UnsupportedArchitecture, shape_from_gguf
from inferstack_runtime.engines.source import ModelSource, Stored, check_tensors, digest_of

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


def open_model(path: Path, cache: Path | None) -> ModelSource:
    """Open a GGUF file or a folder with config.json and safetensors; `cache` remembers digests. Raises `ModelLoadError`."""
    if path.is_dir():
        return open_folder(path, cache)
    return open_gguf(path, cache)


def open_gguf(path: Path, cache: Path | None) -> ModelSource:
    """Open a GGUF model; raises `ModelLoadError`."""
    file = GgufFile(path)
    if (parts := file.metadata.get("split.count", 1)) not in (0, 1):
        raise ModelLoadError(f"{path}: split.count: the model lies in {parts} files, expected it in one; merge them")
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
        raise UnsupportedArchitecture(
            f"{path}: {unknown[0]}: a tensor that a {shape.architecture} model does not have ({len(unknown)} such)"
        )
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelLoadError(f"{path}: tokenizer.chat_template: is {template!r:.80}, expected a text")
    source = ModelSource(
        path=path,
        digest=digest_of(path, cache),
        shape=shape,
        tensors={name: _stored(tensor) for name, tensor in tensors.items()},
        tokenizer=tokenizers.from_gguf(file.metadata, path),
        chat_template=template,
        special_tokens=tokenizers.special_tokens(file.metadata, path),
        end_tokens=tokenizers.end_tokens(file.metadata, path),
        tied="head" not in tensors,
    )
    check_tensors(source)
    return source


def _stored(tensor: GgufTensor) -> Stored:
    return Stored(tensor.type, tensor.shape, tensor.data)
