"""Models as folders: config.json, *.safetensors, tokenizer.json, as model hubs hand them out."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines import tokenizer as tokenizers
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.safetensors import read_safetensors
from inferstack_runtime.engines.shape import MAX_SIZE, DecoderShape, UnsupportedArchitecture
from inferstack_runtime.engines.source import ModelSource, Stored, check_tensors, digest_of

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_LAYER = {
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "output": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "attention_norm": "input_layernorm.weight",
    "feed_forward_norm": "post_attention_layernorm.weight",
    "query_bias": "self_attn.q_proj.bias",
    "key_bias": "self_attn.k_proj.bias",
    "value_bias": "self_attn.v_proj.bias",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
}
_GLOBAL = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight", "final_norm": "model.norm.weight"}


def open_folder(path: Path, cache: Path | None) -> ModelSource:
    """Open a folder; raises `ModelLoadError` with file and field, `UnsupportedArchitecture` for what the native engine does not serve."""
    config = _json(path / "config.json")
    shape = shape_from_config(config, path / "config.json")
    files = weight_files(path)
    stored: dict[str, Stored] = {}
    for file in files:
        part = read_safetensors(file)
        if twice := sorted(stored.keys() & part.keys()):
            raise ModelLoadError(f"{file}: {twice[0]}: stands in another file of the model, too")
        stored |= part
    shape.check_layers(path / "config.json", len(stored))
    names = {name: stored[full] for name, full in _GLOBAL.items() if full in stored}
    for layer in range(shape.layers):
        for name, suffix in _LAYER.items():
            if (tensor := stored.get(f"model.layers.{layer}.{suffix}")) is not None:
                names[f"{layer}.{name}"] = tensor
    known = {*_GLOBAL.values(), *(f"model.layers.{layer}.{suffix}" for layer in range(shape.layers) for suffix in _LAYER.values())}
    unknown = sorted(name for name in stored if name not in known and not name.endswith("rotary_emb.inv_freq"))
    if unknown:
        raise UnsupportedArchitecture(
            f"{path}: {unknown[0]}: a tensor that a {shape.architecture} model does not have ({len(unknown)} such)"
        )
    tied = _flag(config, "tie_word_embeddings", path / "config.json", "head" not in names)
    if tied:
        names.pop("head", None)
    about = _json(path / "tokenizer_config.json", optional=True)
    source = ModelSource(
        path=path,
        digest=digest_of_files(files, cache),
        shape=shape,
        tensors=names,
        tokenizer=tokenizers.from_file(path / "tokenizer.json"),
        chat_template=_template(path, about),
        special_tokens={name: text for name, value in about.items() if name.endswith("_token") and (text := _token_text(value))},
        end_tokens=_end_tokens(config, _json(path / "generation_config.json", optional=True), shape.vocabulary, path),
        tied=tied,
    )
    check_tensors(source)
    return source


def weight_files(path: Path) -> list[Path]:
    """The files of a folder's weights as hubs name them: one file, those of an index, or else all; raises `ModelLoadError`.

    Folders hold other files, too: the same weights under a vendor's own names, adapters.
    """
    if (whole := path / "model.safetensors").exists():
        return [whole]
    index = path / "model.safetensors.index.json"
    if not index.exists():
        if files := sorted(path.glob("*.safetensors")):
            return files
        raise ModelLoadError(f"{path}: no *.safetensors file")
    places = _json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelLoadError(f"{index}: weight_map: is {places!r:.80}, expected the file of each tensor")
    names = sorted(set(places.values()))
    if missing := [name for name in names if Path(name).name != name or not (path / name).is_file()]:
        raise ModelLoadError(
            f"{index}: weight_map: names {missing[0]!r}, which is not in the folder ({len(missing)} of {len(names)} files)"
        )
    return [path / name for name in names]


def shape_from_config(config: Mapping[str, Any], path: Path) -> DecoderShape:
    """The shape that a config.json gives."""
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UnsupportedArchitecture(f"{path}: model_type: is {kind!r}, the native engine serves {', '.join(MODEL_TYPES)}")
    if config.get("quantization_config"):
        raise UnsupportedArchitecture(f"{path}: quantization_config: the native engine quantizes unquantized weights itself")
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedArchitecture(f"{path}: hidden_act: is {config['hidden_act']!r}, the native engine serves silu")

    def number(key: str, default: float | None = None) -> float:
        return _number(config, key, path, default)

    def whole(key: str, default: int | None = None) -> int:
        return _whole(config, key, path, default)

    hidden, heads = whole("hidden_size"), whole("num_attention_heads")
    head_dim = whole("head_dim", hidden // heads)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelLoadError(f"{path}: rope_scaling: is {rope!r}, expected an object")
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1, 1.0):
        raise UnsupportedArchitecture(f"{path}: partial_rotary_factor: is {share!r}, the native engine rotates whole heads")
    theta = _number(rope, "rope_theta", path) if rope.get("rope_theta") else number("rope_theta", 10000.0)
    layers = whole("num_hidden_layers")
    return DecoderShape(
        architecture=kind,
        layers=layers,
        hidden=hidden,
        heads=heads,
        key_value_heads=whole("num_key_value_heads", heads),
        head_dim=head_dim,
        feed_forward=whole("intermediate_size"),
        vocabulary=whole("vocab_size"),
        context=whole("max_position_embeddings"),
        window=_window(config, layers, path),
        epsilon=float(number("rms_norm_eps", 1e-6)),
        rotates_halves=True,
        frequencies=_frequencies(rope, theta, head_dim, path),
    ).check(path)


def _number(config: Mapping[str, Any], key: str, path: Path, default: float | None = None) -> float:
    value = config.get(key, default)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ModelLoadError(f"{path}: {key}: is {value!r}, expected a number above 0")
    return value


def _whole(config: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = _number(config, key, path, default)
    if value != int(value) or value > MAX_SIZE:
        raise ModelLoadError(f"{path}: {key}: is {value!r}, expected a whole number up to {MAX_SIZE}")
    return int(value)


def _flag(config: Mapping[str, Any], key: str, path: Path, default: bool) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelLoadError(f"{path}: {key}: is {value!r}, expected true or false")
    return default if value is None else value


def _window(config: Mapping[str, Any], layers: int, path: Path) -> int:
    """The sliding window, where all layers have it; fields that are missing mean what transformers takes for them.

    Qwen files name a window that they do not use, or that only layers from `max_window_layers` on use.
    """
    named = config.get("layer_types") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ModelLoadError(f"{path}: layer_types: is {named!r}, expected a list of names")
    kinds, family = set(named), config["model_type"]
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise UnsupportedArchitecture(f"{path}: layer_types: names {other[0]}, the native engine serves full and sliding attention")
    if family in ("qwen2", "qwen3"):
        if not _flag(config, "use_sliding_window", path, False):
            return 0
        if not kinds:
            full = 0 if config.get("max_window_layers") == 0 else _whole(config, "max_window_layers", path, 28)
            kinds = {"full_attention" if layer < full else "sliding_attention" for layer in (0, layers - 1)}
    if len(kinds) > 1:
        raise UnsupportedArchitecture(f"{path}: layer_types: layers with and without a sliding window, the native engine needs all alike")
    size = config.get("sliding_window", None if family == "llama" else 4096)
    return 0 if kinds == {"full_attention"} or size in (None, 0) else _whole({"sliding_window": size}, "sliding_window", path)


def _frequencies(rope: Mapping[str, Any], theta: float, head_dim: int, path: Path) -> NDArray[np.float64]:
    """Rotary angles per position; `llama3` scaling as in the Llama 3.1 release (low and high frequency bounds, smooth between)."""
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedArchitecture(f"{path}: partial_rotary_factor: the native engine rotates whole heads")
    if kind == "default":
        return frequencies
    if kind not in ("linear", "llama3"):
        raise UnsupportedArchitecture(f"{path}: rope_scaling: is {kind!r}, the native engine serves default, linear and llama3")
    factor = _number(rope, "factor", path)
    if kind == "linear":
        return frequencies / factor
    low, high = _number(rope, "low_freq_factor", path), _number(rope, "high_freq_factor", path)
    if high <= low:
        raise ModelLoadError(f"{path}: rope_scaling: high_freq_factor is {high}, expected more than low_freq_factor, which is {low}")
    turns = _number(rope, "original_max_position_embeddings", path) * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * ((1 - smooth) / factor + smooth)


def _template(path: Path, about: Mapping[str, Any]) -> str | None:
    own = path / "chat_template.jinja"
    if own.exists():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"{own}: not readable as text ({error})") from None
    template = about.get("chat_template")
    if isinstance(template, list):
        named = [item for item in template if isinstance(item, dict)]
        template = next((item.get("template") for item in named if item.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise ModelLoadError(f"{path / 'tokenizer_config.json'}: chat_template: is {template!r}, expected a text")
    return template


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _end_tokens(config: Mapping[str, Any], generation: Mapping[str, Any], vocabulary: int, path: Path) -> frozenset[int]:
    file = path / ("generation_config.json" if "eos_token_id" in generation else "config.json")
    named = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = [] if named is None else named if isinstance(named, list) else [named]
    wrong = [token for token in ends if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary]
    if wrong:
        raise ModelLoadError(f"{file}: eos_token_id: is {wrong[0]!r}, expected the number of one of {vocabulary} tokens")
    return frozenset(ends)


def digest_of_files(files: list[Path], cache: Path | None) -> str:
    """Of one weights file its own digest; of several the digest of their digests, in order of name."""
    digests = [digest_of(file, cache) for file in files]
    return digests[0] if len(digests) == 1 else f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if optional:
            return {}
        raise ModelLoadError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path}: is not a JSON object")
    return value
