"""Any causal language model that transformers loads, behind the step of the native decoder: correct, and slower.

Each sequence keeps its own cache and is computed on its own; tokens are chosen by the native sampler, so every sampling setting means the
same as with the native engine. Needs the extra `transformers`.
"""

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime import kernels
from inferstack_runtime.engines import tokenizer as tokenizers
from inferstack_runtime.engines.base import ModelLoadError, Tokenizer
from inferstack_runtime.engines.decoder import StepFailed

DTYPES = {"none": "bfloat16", "bf16": "bfloat16", "fp16": "float16", "gguf": "bfloat16"}
"""Quantization → data type. A GGUF file is dequantized."""

log = logging.getLogger(__name__)


class TransformersDecoder:
    """One model; the part of `decoder.Decoder` that the engine uses."""

    reuses_prefixes = False

    def __init__(self, path: Path, quantization: str, *, context: int, threads: int, device: Literal["cpu", "cuda"] = "cpu") -> None:
        """Raises `ModelLoadError`: the extra is missing, torch has no CUDA where `device` is cuda,
        the format is not one of `DTYPES`, or transformers cannot load the model."""
        if quantization not in DTYPES:
            raise ModelLoadError(f"quantization {quantization!r}: the transformers engine has {', '.join(DTYPES)}")
        try:
            import torch
            import transformers
        except ImportError as error:
            raise ModelLoadError(
                f"the transformers engine needs the extra: pip install 'inferstack-runtime[transformers]' ({error})"
            ) from None
        self._torch, self._transformers = torch, transformers
        torch.set_num_threads(threads)
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelLoadError(f"torch {torch.__version__} cannot use the CUDA device of this machine; install a build for its driver")
        self._device = device
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(path), "local_files_only": True}
        if path.is_file():
            where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
        try:
            self.config = transformers.AutoConfig.from_pretrained(**where).get_text_config()
            loaded = transformers.AutoTokenizer.from_pretrained(**where)
            self.tokenizer: Tokenizer = _tokenizer(loaded)
            self.chat_template: str | None = loaded.chat_template if isinstance(loaded.chat_template, str) else None
            self.special_tokens: dict[str, str] = {
                name: value for name, value in loaded.special_tokens_map.items() if isinstance(value, str)
            }
            self.model = (
                transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=getattr(torch, DTYPES[quantization])).eval().to(device)
            )
        except Exception as error:  # whatever a model's own code raises is a model that does not load
            raise ModelLoadError(f"{path}: transformers cannot load it: {type(error).__name__}: {error}") from error
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self.context, self.threads, self.variant = context, threads, f"transformers {transformers.__version__}"
        self.kv_dtype = DTYPES[quantization]
        self._library = kernels.load()
        self._caches: dict[int, Any] = {}
        heads = int(getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads)
        width = int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads)
        self.block_bytes = 2 * 2 * heads * width * int(self.config.num_hidden_layers) * kernels.BLOCK_POSITIONS

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    def allocate_cache(self, blocks: int) -> None:
        """Nothing to reserve: caches grow with their sequences, within the blocks that the scheduler grants."""

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
        """See `decoder.Decoder.step`."""
        try:
            for sequence, start, rows in segments.tolist():
                wanted = np.flatnonzero((specs["row"] >= start) & (specs["row"] < start + rows))
                part = self._forward(sequence, tokens[start : start + rows], int(positions[start]), specs["row"][wanted] - start)
                for index, row in zip(wanted.tolist(), part, strict=True):
                    spec, result = specs[index : index + 1], results[index : index + 1]
                    self._library.c.inferstack_sample(row.ctypes.data, self.vocabulary, spec.ctypes.data, result.ctypes.data)
                    if logits is not None:
                        logits[index] = row[: self.vocabulary]
        except (RuntimeError, MemoryError) as error:
            raise StepFailed(str(error)) from error

    def close(self) -> None:
        self._caches.clear()
        del self.model

    def _forward(self, sequence: int, tokens: NDArray[np.int32], position: int, wanted: NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits of the `wanted` rows, padded with -inf to a multiple of 16."""
        torch = self._torch
        if position == 0:
            self._caches[sequence] = self._transformers.DynamicCache(config=self.config)
        cache = self._caches[sequence]
        if cache.get_seq_length() != position:
            raise StepFailed(f"sequence {sequence} is at position {cache.get_seq_length()}, expected {position}")
        with torch.inference_mode():
            ids = torch.from_numpy(tokens.astype(np.int64))[None].to(self._device)
            at = torch.arange(position, position + len(tokens), device=self._device)[None]
            hidden = self.model(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True).logits[0]
            rows = hidden[torch.from_numpy(wanted.astype(np.int64)).to(self._device)].float().cpu().numpy()
        padded = np.full((len(rows), -(-self.vocabulary // 16) * 16), -np.inf, np.float32)
        padded[:, : self.vocabulary] = rows[:, : self.vocabulary]
        return padded


def _tokenizer(loaded: Any) -> Tokenizer:
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{type(loaded).__name__} has no fast tokenizer")
    return tokenizers.from_backend(backend)
