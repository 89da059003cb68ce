"""The shape of a model that the catalogue does not have, from its Hugging Face config.json.

Parameters are counted layer by layer as the model classes of transformers build them: attention (with separate or latent keys and
values), MLP (two or three matrices; experts, shared experts and their router), norms, embeddings. Of a model with more than text the
text part is counted, so that its other encoders come on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferstack.environment import Model
from inferstack.planning import catalogue
from inferstack.planning.catalogue import Architecture


class UnknownShape(ValueError):
    """A config.json that the memory cannot be planned from; the message says what is missing or what it is."""


_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim", "d_kv", "kv_channels"),
    "intermediate": ("intermediate_size", "n_inner", "d_ff", "ffn_hidden_size", "ffn_dim"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "context": ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx", "max_seq_len"),
    "experts": ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"),
    "expert_intermediate": ("moe_intermediate_size", "expert_intermediate_size"),
    "shared_experts": ("n_shared_experts", "num_shared_experts"),
    "dense_layers": ("first_k_dense_replace",),
}
"""What the settings are called in one family or another."""
_TWO_MATRICES = ("gpt2", "gpt_neox", "gpt_neo", "gptj", "opt", "bloom", "falcon", "phi", "starcoder2", "mpt", "gpt_bigcode")
"""Families whose MLP has no gate."""
_TIED = ("gpt2", "gemma", "gemma2", "gemma3", "gemma3_text", "opt", "bloom", "gpt_bigcode", "cohere", "cohere2", "t5")
"""Families whose output layer is the embedding where config.json says nothing."""
_BIASED = ("qwen2", "qwen2_moe", "gpt_oss", "gpt2", "opt", "bloom", "gpt_neox", "phi", "starcoder2")
"""Families whose query, key and value have a bias where config.json says nothing."""
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text")
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2, "cohere2": 4}
"""Families of which every so many layers one keeps every token, where config.json says nothing."""


@dataclass(frozen=True)
class _Config:
    values: Mapping[str, Any]

    def get(self, name: str, default: int | None = None) -> int:
        """An integer setting by any of its names; raises UnknownShape without one."""
        for key in _NAMES.get(name, (name,)):
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UnknownShape(f"`{key}` is {value!r}, not a number of them")
            return value
        if default is None:
            raise UnknownShape(f"it has no `{_NAMES.get(name, (name,))[0]}`")
        return default

    @property
    def family(self) -> str:
        return str(self.values.get("model_type", ""))

    @property
    def latent(self) -> bool:
        """Keys and values are kept as one latent vector (DeepSeek's multi-head latent attention)."""
        return self.values.get("kv_lora_rank") is not None


def architecture(model: Model) -> Architecture | None:
    """The shape of a model: of its own config.json, else of the catalogue; None where neither says enough."""
    if model.config is None:
        return catalogue.architecture(model)
    try:
        return from_config(model.config, model.name)
    except UnknownShape:
        return None


def splits(shape: Architecture, gpus: int) -> bool:
    """Can this many GPUs share each layer: heads in equal parts, and so those of keys and values, or each of these repeated as often."""
    return shape.heads % gpus == 0 and bool(shape.latent or shape.kv_heads % gpus == 0 or gpus % shape.kv_heads == 0)


def from_config(config: Mapping[str, Any], name: str) -> Architecture:
    """The architecture that a config.json describes; raises UnknownShape."""
    if not isinstance(config, Mapping):
        raise UnknownShape("it is no mapping of settings")
    text = config.get("text_config")
    found = _Config({**config, **text} if isinstance(text, Mapping) else config)
    if found.values.get("is_encoder_decoder"):
        raise UnknownShape("it is an encoder and decoder, whose cache is of another kind")
    hidden, heads, layers = found.get("hidden"), found.get("heads"), found.get("layers")
    if not (hidden and heads and layers):
        raise UnknownShape("it has no layers, heads or width")
    head_dim = found.get("head_dim", hidden // heads)
    kv_heads = 1 if found.values.get("multi_query") and not found.values.get("new_decoder_architecture") else found.get("kv_heads", heads)
    tied = bool(found.values.get("tie_word_embeddings", found.family in _TIED))
    window, windowed = _window(found, layers)
    vocab = found.get("vocab")
    per_layer = _attention(found, hidden, heads, kv_heads, head_dim) + hidden * (4 if found.family in _FOUR_NORMS else 2)
    positions = found.get("context") * hidden if found.family in ("gpt2", "opt") else 0
    return Architecture(
        name=name,
        repository=str(config.get("_name_or_path", "")),
        parameters=layers * per_layer + _mlps(found, hidden, layers) + vocab * hidden * (1 if tied else 2) + positions + hidden,
        layers=layers,
        kv_layers=layers,
        hidden=hidden,
        intermediate=found.get("intermediate", 4 * hidden),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        context=_context(found),
        tied=tied,
        experts=found.get("experts", 0),
        shipped=None,
        latent=found.get("kv_lora_rank") + found.get("qk_rope_head_dim") if found.latent else 0,
        window=window,
        windowed_layers=windowed,
    )


def _context(config: _Config) -> int:
    """The longest context, RoPE scaling counted where the configured positions are those before it."""
    scaling, context = config.values.get("rope_scaling"), config.get("context")
    if not isinstance(scaling, Mapping) or scaling.get("rope_type", scaling.get("type")) not in ("yarn", "linear", "dynamic"):
        return context
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor", 1)
    scaled = int((original or context) * factor)
    return max(context, scaled) if original else context


def _attention(config: _Config, hidden: int, heads: int, kv_heads: int, head_dim: int) -> int:
    if config.latent:
        rope, nope, value = config.get("qk_rope_head_dim"), config.get("qk_nope_head_dim"), config.get("v_head_dim")
        latent, query = config.get("kv_lora_rank"), config.get("q_lora_rank", 0)
        queries = hidden * query + query + query * heads * (nope + rope) if query else hidden * heads * (nope + rope)
        return queries + hidden * (latent + rope) + latent + latent * heads * (nope + value) + heads * value * hidden
    bias = config.values.get("attention_bias", config.values.get("qkv_bias", config.family in _BIASED))
    width = (heads + 2 * kv_heads) * head_dim
    return hidden * width + heads * head_dim * hidden + (width if bias else 0)


def _mlps(config: _Config, hidden: int, layers: int) -> int:
    """The MLPs of all layers; with experts, the first layers may be dense, and each token sees shared experts beside its own."""
    matrices = 2 if config.family in _TWO_MATRICES else 3
    dense = matrices * hidden * config.get("intermediate", 4 * hidden)
    experts = config.get("experts", 0)
    if not experts:
        return layers * dense
    each = matrices * hidden * config.get("expert_intermediate", config.get("intermediate", 4 * hidden))
    shared = config.get("shared_experts", 0) * each + matrices * hidden * config.get("shared_expert_intermediate_size", 0)
    first = min(layers, config.get("dense_layers", 0))
    return first * dense + (layers - first) * (experts * each + shared + hidden * experts)


def _window(config: _Config, layers: int) -> tuple[int, int]:
    """The sliding window in tokens, and the layers that keep no more than it; (0, 0) without one."""
    window = config.values.get("sliding_window")
    if not isinstance(window, int) or isinstance(window, bool) or window <= 0 or config.values.get("use_sliding_window") is False:
        return 0, 0
    kinds = config.values.get("layer_types")
    if isinstance(kinds, list):
        return window, sum(kind == "sliding_attention" for kind in kinds)
    pattern = config.values.get("sliding_window_pattern", _PATTERNS.get(config.family))
    if isinstance(pattern, int) and pattern > 1:
        return window, layers - layers // pattern
    return window, layers
