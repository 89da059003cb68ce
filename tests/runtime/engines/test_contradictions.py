"""Models whose parts do not fit together, weights that are no numbers, and what is left to the transformers engine instead."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.decoder import Decoder
from inferstack_runtime.engines.folder import weight_files
from inferstack_runtime.engines.opening import open_model
from inferstack_runtime.engines.shape import UnsupportedArchitecture
from tests.runtime.engines.test_architectures import (
    CONFIG,
    LLAMA3,
    TOKENS,
    edited,
    gguf_metadata,
    gguf_tensors,
    logits_of,
    random_weights,
    write_folder,
)
from tests.runtime.engines.test_lies import parts_of

WriteGguf = Callable[..., Path]

# ---- Weights that are no numbers -------------------------------------------------------------------------------------------------

BLOCKS = {"Q4_0": (2, 16), "Q4_1": (3, 16), "Q5_0": (6, 20), "Q5_1": (7, 20), "Q8_0": (8, 32)}
"""GGUF number, and bytes of a block after its half-precision scale (and minimum)."""


def quantized(kind: str, shape: tuple[int, int], scale: float) -> tuple[int, tuple[int, int], bytes]:
    """A matrix of one-valued codes; the last block's scale is `scale`."""
    number, rest = BLOCKS[kind]
    halves = 2 if kind.endswith("_1") else 1

    def block(value: float) -> bytes:
        return np.array([value, 0.5][:halves], np.float16).tobytes() + b"\x11" * rest

    return number, shape, block(0.01) * (shape[0] * shape[1] // 32 - 1) + block(scale)


@pytest.mark.parametrize("quantization", ["gguf", "int8", "int4", "nf4", "bf16", "fp16"])
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_no_number_is_named_whatever_it_is_packed_as(
    quantization: str, scale: float, write_gguf: WriteGguf, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for kind in BLOCKS:
        tensors: dict[str, Any] = dict(gguf_tensors("llama", random_weights(CONFIG)))
        tensors["blk.1.ffn_gate.weight"] = quantized(kind, (96, 64), scale)
        path = write_gguf(gguf_metadata("llama"), tensors)
        with np.errstate(all="raise"), pytest.raises(ModelLoadError, match=r"1\.gate: holds a value that is not finite") as error:
            Decoder(open_model(path, None), quantization, context=32, threads=1, cache=cache)
        assert str(path) in str(error.value)
        assert not [file for file in cache.rglob("*") if "pack" in file.name and file.is_file()]


@pytest.mark.parametrize("quantization", ["none", "int8", "int4", "nf4", "fp16"])
@pytest.mark.parametrize(("name", "part"), [("model.embed_tokens.weight", "embedding"), ("model.layers.0.mlp.down_proj.weight", "0.down")])
def test_a_weight_that_is_no_number_is_named(quantization: str, name: str, part: str, tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        weights = random_weights(CONFIG)
        weights[name][-1, 5] = value
        with pytest.raises(ModelLoadError, match=rf"{part}: holds a value that is not finite"):
            Decoder(open_model(write_folder(tmp_path / "model", CONFIG, weights), None), quantization, context=32, threads=1)


def test_a_weight_that_half_precision_cannot_hold_is_named(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    weights["model.layers.0.self_attn.v_proj.weight"][3, 3] = 1 << 17
    source = open_model(write_folder(tmp_path / "model", CONFIG, weights), None)
    Decoder(source, "bf16", context=32, threads=1).close()
    with pytest.raises(ModelLoadError, match=r"0\.value: holds a value that is not finite, or too large for f16"):
        Decoder(source, "fp16", context=32, threads=1)


# ---- Parts that do not fit together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (edited(num_key_value_heads=3), ModelLoadError, "4 heads cannot share 3 key-value heads evenly"),
        (edited(num_key_value_heads=8), ModelLoadError, "4 heads cannot share 8 key-value heads evenly"),
        (edited(tie_word_embeddings="false"), ModelLoadError, "tie_word_embeddings: is 'false', expected true or false"),
        (edited(model_type="qwen2", use_sliding_window="no"), ModelLoadError, "use_sliding_window: is 'no'"),
        (edited(rope_scaling={"type": "linear"}), ModelLoadError, "factor: is None"),
        (edited(rope_scaling={"type": "linear", "factor": 0}), ModelLoadError, "factor: is 0, expected a number above 0"),
        (edited(rope_scaling={"type": "linear", "factor": -2.0}), ModelLoadError, r"factor: is -2\.0"),
        (edited(rope_scaling={"type": "linear", "factor": float("nan")}), ModelLoadError, "factor: is nan"),
        (edited(rope_scaling=LLAMA3 | {"high_freq_factor": 1.0}), ModelLoadError, "high_freq_factor is 1.0, expected more than"),
        (edited(layer_types=["linear_attention"] * 2), UnsupportedArchitecture, "layer_types: names linear_attention"),
        (
            edited(model_type="qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
            UnsupportedArchitecture,
            "layers with and without a sliding window",
        ),
    ],
)
def test_a_configuration_that_contradicts_itself_is_named(config: dict[str, Any], error: type, message: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", config, random_weights(config | {"tie_word_embeddings": False}))
    with pytest.raises(error, match=message) as found:
        open_model(folder, None)
    assert str(folder / "config.json") in str(found.value)
    assert found.type is error


@pytest.mark.parametrize(
    ("kind", "gone"), [("qwen2", "self_attn.k_proj.bias"), ("qwen3", "self_attn.q_norm.weight"), ("qwen2", "self_attn.q_proj.bias")]
)
@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_what_an_architecture_needs_is_missed(kind: str, gone: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    config = edited(model_type=kind)
    weights = random_weights(config)
    for layer in layers:
        del weights[f"model.layers.{layer}.{gone}"]
    with pytest.raises(ModelLoadError, match=r"0\.\w+: missing, expected shape"):
        open_model(write_folder(tmp_path / "model", config, weights), None)


def test_a_head_that_is_neither_there_nor_tied_is_missed(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    del weights["lm_head.weight"]
    with pytest.raises(ModelLoadError, match="head: missing"):
        open_model(write_folder(tmp_path / "model", CONFIG, weights), None)
    assert open_model(write_folder(tmp_path / "tied", edited(tie_word_embeddings=...), weights), None).tied


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (edited(model_type="mistral", sliding_window=...), 4096),
        (edited(model_type="mistral", sliding_window=None), 0),
        (edited(model_type="mistral", sliding_window=9), 9),
        (edited(model_type="qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0), 8),
        (edited(model_type="qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2), 0),
        (edited(model_type="qwen2", use_sliding_window=True, sliding_window=8), 0),  # transformers: from layer 28 on
        (edited(model_type="qwen2", use_sliding_window=True, sliding_window=8, layer_types=["sliding_attention"] * 2), 8),
        (edited(model_type="qwen2", sliding_window=8, max_window_layers=0), 0),
        (edited(), 0),
    ],
)
def test_the_window_is_the_one_that_transformers_takes(config: dict[str, Any], window: int, tmp_path: Path) -> None:
    assert open_model(write_folder(tmp_path / "model", config, random_weights(config)), None).shape.window == window


# ---- Folders of several files ----------------------------------------------------------------------------------------------------


def index_of(folder: Path, places: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return path


def test_an_index_says_which_files_are_the_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    digest = open_model(folder, None).digest
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())  # the same weights for another program
    assert open_model(folder, None).digest == digest
    parts_of(folder, 2)
    names = sorted(path.name for path in folder.glob("model-*"))
    path = index_of(folder, {"a": names[0], "b": names[1]})
    assert [file.name for file in weight_files(folder)] == names
    assert open_model(folder, None).tensors
    (folder / names[1]).unlink()
    with pytest.raises(ModelLoadError) as error:
        open_model(folder, None)
    assert f"{path}: weight_map: names '{names[1]}', which is not in the folder (1 of 2 files)" in str(error.value)


@pytest.mark.parametrize(
    "places", [None, [], {}, {"a": 5}, {"a": "../model/other.safetensors"}, {"a": ""}, {"a": "."}, {"a": "/etc/passwd"}]
)
def test_an_index_that_names_no_files_of_the_folder_is_named(places: object, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    path = index_of(folder, places)
    with pytest.raises(ModelLoadError, match="weight_map") as error:
        open_model(folder, None)
    assert str(path) in str(error.value)


# ---- What goes on to the transformers engine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F8_E4M3", "I64", "I32", "U8"])
def test_weights_of_another_type_go_on_with_the_file_named(kind: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    header = json.dumps({"model.norm.weight": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}})
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))
    with pytest.raises(UnsupportedArchitecture, match=rf"model\.safetensors: model\.norm\.weight at byte 8: is {kind}, the native engine"):
        open_model(folder, None)


def test_a_quantized_folder_goes_on_whatever_its_tensors_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", edited(quantization_config={"quant_method": "gptq"}), random_weights(CONFIG))
    header = json.dumps({"model.layers.0.mlp.up_proj.qweight": {"dtype": "I32", "shape": [8], "data_offsets": [0, 32]}})
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))
    with pytest.raises(UnsupportedArchitecture, match="quantization_config"):
        open_model(folder, None)


@pytest.mark.parametrize(("number", "label"), [(20, "IQ4_NL"), (23, "IQ4_XS"), (39, "MXFP4"), (27, "I64")])
def test_a_gguf_type_that_is_not_read_goes_on(number: int, label: str, write_gguf: WriteGguf) -> None:
    tensors: dict[str, Any] = dict(gguf_tensors("llama", random_weights(CONFIG)))
    tensors["blk.0.ffn_up.weight"] = (number, (96, 64), bytes(96 * 64))
    with pytest.raises(
        UnsupportedArchitecture, match=rf"type of blk\.0\.ffn_up\.weight at byte \d+: is {label}, the native engine reads F32"
    ):
        open_model(write_gguf(gguf_metadata("llama"), tensors), None)


def test_a_gguf_tensor_or_tokenizer_of_another_kind_goes_on(write_gguf: WriteGguf) -> None:
    tensors = gguf_tensors("llama", random_weights(CONFIG))
    with pytest.raises(UnsupportedArchitecture, match=r"blk\.0\.attn_output\.bias: a tensor that a llama model does not have"):
        open_model(write_gguf(gguf_metadata("llama"), tensors | {"blk.0.attn_output.bias": np.zeros(64, np.float32)}), None)
    with pytest.raises(UnsupportedArchitecture, match=r"tokenizer\.ggml\.pre: is 'falcon'"):
        open_model(write_gguf(gguf_metadata("llama") | {"tokenizer.ggml.pre": "falcon"}, tensors), None)


def test_a_gguf_model_in_several_files_says_so(write_gguf: WriteGguf) -> None:
    metadata = gguf_metadata("llama") | {"split.count": 3, "split.no": 0}
    with pytest.raises(ModelLoadError, match=r"split\.count: the model lies in 3 files"):
        open_model(write_gguf(metadata, gguf_tensors("llama", random_weights(CONFIG))), None)


# ---- What a GGUF file leaves unsaid ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
        {"llama.rope.scaling.factor": 2.0},
        {"llama.rope.scale_linear": 2.0},
    ],
)
def test_a_factor_without_its_kind_scales_linearly(fields: dict[str, Any], write_gguf: WriteGguf, tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    scaled = write_folder(tmp_path / "model", edited(rope_scaling={"rope_type": "linear", "factor": 2.0}), weights)
    actual = logits_of(open_model(write_gguf(gguf_metadata("llama") | fields, gguf_tensors("llama", weights)), None), TOKENS, [75])
    np.testing.assert_array_equal(actual, logits_of(open_model(scaled, None), TOKENS, [75]))


@pytest.mark.parametrize(
    ("pre", "fields", "begins"),
    [
        ("llama-bpe", {}, True),
        ("llama-v3", {}, True),
        ("tekken", {}, True),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": False}, False),
        ("gpt-2", {}, False),
        ("qwen2", {}, False),
        ("deepseek-r1-qwen", {"tokenizer.ggml.add_bos_token": True}, True),
    ],
)
def test_texts_begin_as_the_tokenizer_asks_for(pre: str, fields: dict[str, Any], begins: bool, write_gguf: WriteGguf) -> None:
    metadata = gguf_metadata("llama") | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.bos_token_id": 4} | fields
    tokenizer = open_model(write_gguf(metadata, gguf_tensors("llama", random_weights(CONFIG))), None).tokenizer
    assert tokenizer.encode("AB") == [4] * begins + tokenizer.encode("AB", add_special_tokens=False)
