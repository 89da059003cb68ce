"""Small random models of every served architecture against a plain numpy decoder, from safetensors and from GGUF."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from inferstack_runtime import kernels
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.decoder import Decoder
from inferstack_runtime.engines.opening import open_model
from inferstack_runtime.engines.shape import UnsupportedArchitecture
from inferstack_runtime.engines.source import ModelSource

VOCABULARY, HIDDEN, HEADS, GROUPS, DIM, INNER, LAYERS = 90, 64, 4, 2, 32, 96, 2
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": DIM,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "llama3 rope": {"rope_scaling": LLAMA3},
    "linear rope": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 20},
    "qwen2": {"model_type": "qwen2", "sliding_window": 4, "use_sliding_window": False},
    "qwen3": {"model_type": "qwen3"},
}
Weights = dict[str, np.ndarray]


def bfloat(x: np.ndarray) -> np.ndarray:
    """Rounded so that bfloat16 holds it exactly."""
    return (x.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def random_weights(config: dict[str, Any]) -> Weights:
    rng = np.random.default_rng(1)
    kind = config["model_type"]
    weights = {"model.embed_tokens.weight": rng.standard_normal((VOCABULARY, HIDDEN)), "model.norm.weight": 1 + rng.random(HIDDEN)}
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = rng.standard_normal((VOCABULARY, HIDDEN))
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        sizes = {"self_attn.q_proj": (HEADS * DIM, HIDDEN), "self_attn.k_proj": (GROUPS * DIM, HIDDEN)}
        sizes |= {"self_attn.v_proj": (GROUPS * DIM, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * DIM)}
        sizes |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
        for name, size in sizes.items():
            weights[f"{at}{name}.weight"] = rng.standard_normal(size) / 8
            if kind == "qwen2" and name.endswith(("q_proj", "k_proj", "v_proj")):
                weights[f"{at}{name}.bias"] = rng.standard_normal(size[0])
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}{name}.weight"] = 1 + rng.random(HIDDEN)
        if kind == "qwen3":
            weights |= {f"{at}self_attn.{name}.weight": 1 + rng.random(DIM) for name in ("q_norm", "k_norm")}
    return {name: bfloat(value) for name, value in weights.items()}


def reference_logits(config: dict[str, Any], weights: Weights, tokens: list[int]) -> np.ndarray:
    """The decoder in float64, straight from its definition."""

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config["rms_norm_eps"]) * weight

    frequencies = config["rope_theta"] ** (-np.arange(0, DIM, 2) / DIM)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        frequencies = frequencies / scaling["factor"]
    if scaling.get("rope_type") == "llama3":
        length = 2 * np.pi / frequencies
        original = scaling["original_max_position_embeddings"]
        smooth = (original / length - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
        mixed = (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies
        slow, fast = length > original / scaling["low_freq_factor"], length < original / scaling["high_freq_factor"]
        frequencies = np.where(slow, frequencies / scaling["factor"], np.where(fast, frequencies, mixed))
    angles = np.arange(len(tokens))[:, None] * frequencies
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rotate(x: np.ndarray) -> np.ndarray:
        a, b = x[..., : DIM // 2], x[..., DIM // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    window = config.get("sliding_window") if config["model_type"] == "mistral" else None
    at = np.arange(len(tokens))
    allowed = at[:, None] >= at
    if window:
        allowed &= at[:, None] - at < window
    x = weights["model.embed_tokens.weight"][tokens].astype(np.float64)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."

        def linear(x: np.ndarray, part: str, name: str = name) -> np.ndarray:
            return x @ weights[f"{name}{part}.weight"].T.astype(np.float64) + weights.get(f"{name}{part}.bias", 0)

        h = rms(x, weights[f"{name}input_layernorm.weight"])
        q, k, v = (linear(h, f"self_attn.{part}_proj").reshape(len(tokens), -1, DIM) for part in "qkv")
        if config["model_type"] == "qwen3":
            q, k = rms(q, weights[f"{name}self_attn.q_norm.weight"]), rms(k, weights[f"{name}self_attn.k_norm.weight"])
        q, k = rotate(q), rotate(k)
        k, v = np.repeat(k, HEADS // GROUPS, axis=1), np.repeat(v, HEADS // GROUPS, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(DIM)
        scores = np.where(allowed, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = np.einsum("hij,jhd->ihd", scores / scores.sum(axis=-1, keepdims=True), v)
        x = x + linear(attended.reshape(len(tokens), -1), "self_attn.o_proj")
        h = rms(x, weights[f"{name}post_attention_layernorm.weight"])
        gate = linear(h, "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "mlp.up_proj"), "mlp.down_proj")
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return rms(x, weights["model.norm.weight"]) @ head.T.astype(np.float64)


def write_folder(folder: Path, config: dict[str, Any], weights: Weights) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, b""
    for name, value in weights.items():
        content = (value.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w1", "chat_template": "{{ messages }}"}))
    return folder


def logits_of(
    source: ModelSource, tokens: list[int], chunks: list[int], quantization: str = "none", *, stale: int = 0, **changes: Any
) -> np.ndarray:
    """Logits of every position, computed in chunks of the given sizes, over a cache whose bytes are `stale`."""
    decoder = Decoder(source, quantization, context=256, **{"cache_type": "f32", "threads": 2, **changes})
    decoder.allocate_cache(8)
    decoder._cache[:] = stale
    tables = np.array([[5, 2, 7, 1, 3, 0, 6, 4]], np.int32)  # any order of blocks will do
    out, start = [], 0
    for rows in chunks:
        specs = np.zeros(rows, kernels.SAMPLE_SPEC)
        specs["row"], specs["repetition"], specs["alternatives"] = np.arange(rows), 1, -1
        logits = np.empty((rows, VOCABULARY), np.float32)
        positions = np.arange(start, start + rows, dtype=np.int32)
        segments = np.array([(0, 0, rows)], kernels.SEGMENT)
        results = np.zeros(rows, kernels.SAMPLE_RESULT)
        decoder.step(np.array(tokens[start : start + rows], np.int32), positions, segments, tables, specs, results, logits)
        out.append(logits)
        start += rows
    decoder.close()
    return np.concatenate(out)


TOKENS = [int(token) for token in np.random.default_rng(2).integers(0, VOCABULARY, 75)]


@pytest.mark.parametrize("variant", kernels.supported())
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_a_plain_decoder(case: str, variant: str, tmp_path: Path) -> None:
    config = CONFIG | CASES[case]
    weights = random_weights(config)
    source = open_model(write_folder(tmp_path / "model", config, weights), None)
    expected = reference_logits(config, weights, TOKENS)
    actual = logits_of(source, TOKENS, [40, 1, 1, 30, 3], library=kernels.load(variant))
    np.testing.assert_allclose(actual, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("cache_type", ["bf16", "int8"])
def test_a_smaller_cache_stays_near(cache_type: str, tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    source = open_model(write_folder(tmp_path / "model", CONFIG, weights), None)
    expected = reference_logits(CONFIG, weights, TOKENS)
    actual = logits_of(source, TOKENS, [75], cache_type=cache_type)
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 0.02
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


@pytest.mark.parametrize("variant", kernels.supported())
@pytest.mark.parametrize(
    ("quantization", "cache_type"), [("none", "f32"), ("int8", "bf16"), ("int4", "int8"), ("nf4", "f32"), ("fp16", "bf16")]
)
def test_any_chunking_gives_the_same_bits(quantization: str, cache_type: str, variant: str, tmp_path: Path) -> None:
    source = open_model(write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG)), None)
    options = {"cache_type": cache_type, "library": kernels.load(variant)}
    whole = logits_of(source, TOKENS, [75], quantization, **options)
    np.testing.assert_array_equal(logits_of(source, TOKENS, [1] * 40 + [13, 7, 15], quantization, **options), whole)


@pytest.mark.parametrize("variant", kernels.supported())
@pytest.mark.parametrize("cache_type", ["f32", "bf16", "int8"])
def test_what_a_block_held_before_does_not_matter(cache_type: str, variant: str, tmp_path: Path) -> None:
    source = open_model(write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG)), None)
    options = {"cache_type": cache_type, "library": kernels.load(variant)}
    clean = logits_of(source, TOKENS, [1, 2, 40, 32], **options)
    np.testing.assert_array_equal(logits_of(source, TOKENS, [1, 2, 40, 32], stale=0xFF, **options), clean)  # all values NaN


@pytest.mark.parametrize("threads", [1, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(threads: int, tmp_path: Path) -> None:
    source = open_model(write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG)), None)
    expected = logits_of(source, TOKENS, [70, 1, 4], "int8")
    np.testing.assert_array_equal(logits_of(source, TOKENS, [70, 1, 4], "int8", threads=threads), expected)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_gguf_and_safetensors_of_one_model_agree(architecture: str, tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
    config = CONFIG | {"model_type": architecture}
    weights = random_weights(config)
    folder = open_model(write_folder(tmp_path / "model", config, weights), None)
    path = write_gguf(gguf_metadata(architecture), gguf_tensors(architecture, weights))
    np.testing.assert_array_equal(logits_of(open_model(path, None), TOKENS, [75]), logits_of(folder, TOKENS, [75]))


def gguf_metadata(architecture: str) -> dict[str, Any]:
    alphabet = ['!"', *(chr(33 + i) for i in range(VOCABULARY - 1))]
    return {
        "general.architecture": architecture,
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 256,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": INNER,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": GROUPS,
        f"{architecture}.attention.key_length": DIM,
        f"{architecture}.rope.freq_base": 10000.0,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": alphabet,
        "tokenizer.ggml.merges": ['! "'],
    }


def gguf_tensors(architecture: str, weights: Weights) -> Weights:
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    parts |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm"}
    parts |= {"post_attention_layernorm": "ffn_norm", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
    tensors = {}
    for name, value in weights.items():
        stem, _, suffix = name.rpartition(".")
        if stem in names:
            tensors[f"{names[stem]}.{suffix}"] = value
            continue
        _, _, layer, part = stem.split(".", 3)
        if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):  # GGUF's llama rotates neighbours
            value = value.reshape(-1, 2, DIM // 2, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        tensors[f"blk.{layer}.{parts[part]}.{suffix}"] = value
    return tensors


def edited(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (CONFIG | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (edited(model_type="mamba"), UnsupportedArchitecture, r"config\.json: model_type: is 'mamba'"),
        (edited(hidden_size="many"), ModelLoadError, "hidden_size: is 'many', expected a number above 0"),
        (edited(num_hidden_layers=...), ModelLoadError, "num_hidden_layers: is None"),
        (edited(head_dim=80), UnsupportedArchitecture, "head size is 80"),
        (edited(rope_scaling={"rope_type": "yarn", "factor": 2}), UnsupportedArchitecture, "rope_scaling: is 'yarn'"),
        (edited(rope_scaling={"rope_type": "llama3", "factor": 2}), ModelLoadError, "low_freq_factor"),
        (edited(num_hidden_layers=3), ModelLoadError, r"2\.query: missing, expected shape \[128, 64\]"),
        (edited(num_hidden_layers=1), UnsupportedArchitecture, r"model\.layers\.1\.\S+: a tensor that a llama model does not have"),
        (edited(intermediate_size=128), ModelLoadError, r"0\.gate: has shape \[96, 64\], expected \[128, 64\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(config: dict[str, Any], error: type, message: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", config, random_weights(CONFIG))
    with pytest.raises(error, match=message):
        open_model(folder, None)


def test_a_damaged_safetensors_file_is_a_typed_error_at_every_length(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    whole = (folder / "model.safetensors").read_bytes()
    for size in [*range(40), *range(40, len(whole), 4999)]:
        (folder / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
            open_model(folder, None)
