"""Loads a model into the engine that the configuration names.

loaded = load_model(model, engine, weight_cache=None)      # raises ModelLoadError
loaded.engine.submit(...)
"""

import errno
import importlib.metadata
import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from inferstack_runtime.engines.base import LoadedModel, ModelLoadError, Placement
from inferstack_runtime.engines.device import find_gpu, place
from inferstack_runtime.engines.shape import UnsupportedArchitecture

if TYPE_CHECKING:
    from inferstack_runtime.engines.decoder import StepDecoder
    from inferstack_runtime.engines.native import BatchingEngine

log = logging.getLogger(__name__)


class ModelSettings(Protocol):
    """One entry of `models` of the runtime's configuration."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def digest(self) -> str | None: ...
    @property
    def quantization(self) -> str: ...
    @property
    def context(self) -> int: ...


class EngineSettings(Protocol):
    """`engine` of the runtime's configuration."""

    @property
    def kind(self) -> str: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def max_sequences(self) -> int: ...
    @property
    def max_batch_tokens(self) -> int: ...
    @property
    def max_queue(self) -> int: ...
    @property
    def kv_cache_bytes(self) -> int: ...


def load_model(model: ModelSettings, engine: EngineSettings, weight_cache: str | Path | None = None) -> LoadedModel:
    """A model that is ready to serve. Raises `ModelLoadError` with the file, field or setting that is wrong.

    A model that the native engine does not serve goes to transformers, with a warning, where that extra is installed.
    """
    if engine.kind not in ("native", "transformers"):
        raise ModelLoadError(f"engine.kind: is {engine.kind!r}, this runtime has native and transformers")
    path, cache = find_model(model.source), cache_folder(weight_cache)
    try:
        if engine.kind == "transformers":
            return _load_transformers(model, engine, path, cache)
        try:
            return _load_native(model, engine, path, cache)
        except UnsupportedArchitecture as reason:
            if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
                raise ModelLoadError(f"{reason}; the transformers engine may: pip install 'inferstack-runtime[transformers]'") from None
            log.warning("%s is served by the slower transformers engine: %s", model.name, reason)
            return _load_transformers(model, engine, path, cache)
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise ModelLoadError(f"{path}: {error}") from None
        raise ModelLoadError(f"{path}: out of memory while loading; lower engine.kv_cache_bytes or use a smaller quantization") from None


def cache_folder(weight_cache: str | Path | None) -> Path:
    """Where packed weights are kept: the setting, `$INFERSTACK_CACHE`, `$XDG_CACHE_HOME/inferstack` or `~/.cache/inferstack`."""
    if weight_cache is not None:
        return Path(weight_cache)
    if explicit := os.environ.get("INFERSTACK_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "inferstack"


def _threads(engine: EngineSettings) -> int:
    return engine.threads or len(os.sched_getaffinity(0))


def _place(engine: EngineSettings, kind: str) -> Placement:
    return place(getattr(engine, "device", "auto"), getattr(engine, "cpu_fallback", False), kind, find_gpu())


def _cache_type(engine: EngineSettings, quantization: str) -> str:
    """The native engine's name for `engine.kv_dtype`; `auto` rounds keys and values only where weights are rounded further."""
    names = {"auto": "f32" if quantization in ("none", "bf16", "fp16") else "bf16", "bf16": "bf16", "fp32": "f32", "int8": "int8"}
    wanted = getattr(engine, "kv_dtype", "auto")
    if wanted not in names:
        raise ModelLoadError(f"engine.kv_dtype: is {wanted!r}, the native engine has {', '.join(names)}")
    return names[wanted]


def find_model(source: str) -> Path:
    """The file or folder of `package://DISTRIBUTION` or `file://PATH`."""
    scheme, separator, rest = source.partition("://")
    if scheme == "package" and separator:
        return _in_package(rest)
    if scheme == "file" and separator:
        path = Path(rest)
        if not path.exists():
            raise ModelLoadError(f"{source}: no such file or folder")
        return path
    raise ModelLoadError(f"{source!r}: the runtime reads package:// and file:// models; mount others as files")


def _in_package(distribution: str) -> Path:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelLoadError(f"package://{distribution}: the package is not installed") from None
    models = [file for file in files if file.suffix == ".gguf"]
    if len(models) != 1:
        found = ", ".join(str(file) for file in models) or "none"
        raise ModelLoadError(f"package://{distribution}: expected one .gguf file in the package, found {found}")
    return Path(str(models[0].locate()))


def _load_native(model: ModelSettings, engine: EngineSettings, path: Path, cache: Path) -> LoadedModel:
    placement = _place(engine, "native")
    from inferstack_runtime.engines.decoder import Decoder
    from inferstack_runtime.engines.opening import open_model
    from inferstack_runtime.kernels import KernelsUnavailable

    source = open_model(path, cache)
    if model.digest is not None and model.digest != source.digest:
        raise ModelLoadError(f"{path}: digest is {source.digest}, the configuration expects {model.digest}")
    context = min(model.context, source.shape.context)
    if context < model.context:
        log.warning("context of %s cut to the %d positions that the model was made for", model.name, context)
    try:
        decoder = Decoder(
            source,
            model.quantization,
            context=context,
            threads=_threads(engine),
            cache=cache,
            cache_type=_cache_type(engine, model.quantization),
        )
    except KernelsUnavailable as error:
        raise ModelLoadError(str(error)) from None
    log.info("%s: %s on %s kernels, %d threads", model.name, model.quantization, decoder.variant, decoder.threads)
    batching = _batching(model, engine, decoder, context, source.end_tokens)
    return LoadedModel(
        name=model.name,
        engine=batching,
        tokenizer=source.tokenizer,
        digest=source.digest,
        quantization=model.quantization,
        context=batching.context,
        chat_template=source.chat_template,
        special_tokens=source.special_tokens,
        eos_token_ids=source.end_tokens,
        architecture=source.shape.architecture,
        weight_bytes=decoder.weight_bytes,
        placement=placement,
    )


def _load_transformers(model: ModelSettings, engine: EngineSettings, path: Path, cache: Path) -> LoadedModel:
    placement = _place(engine, "transformers")
    from inferstack_runtime.engines.folder import digest_of_files, weight_files
    from inferstack_runtime.engines.transformers_decoder import TransformersDecoder

    if (wanted := getattr(engine, "kv_dtype", "auto")) != "auto":
        raise ModelLoadError(f"engine.kv_dtype: is {wanted!r}, the transformers engine keeps keys and values as it computes them: auto")
    digest = digest_of_files([path] if path.is_file() else weight_files(path), cache)
    if model.digest is not None and model.digest != digest:
        raise ModelLoadError(f"{path}: digest is {digest}, the configuration expects {model.digest}")
    decoder = TransformersDecoder(path, model.quantization, context=model.context, threads=_threads(engine), device=placement.device)
    context = min(model.context, int(getattr(decoder.config, "max_position_embeddings", model.context)))
    ends = decoder.model.generation_config.eos_token_id
    end_tokens = frozenset(token for token in (ends if isinstance(ends, list) else [ends]) if token is not None)
    batching = _batching(model, engine, decoder, context, end_tokens)
    return LoadedModel(
        name=model.name,
        engine=batching,
        tokenizer=decoder.tokenizer,
        digest=digest,
        quantization=model.quantization,
        context=batching.context,
        chat_template=decoder.chat_template,
        special_tokens=decoder.special_tokens,
        eos_token_ids=end_tokens,
        architecture=str(decoder.config.model_type),
        weight_bytes=decoder.weight_bytes,
        placement=placement,
    )


def _batching(
    model: ModelSettings, engine: EngineSettings, decoder: "StepDecoder", context: int, end_tokens: frozenset[int]
) -> "BatchingEngine":
    from inferstack_runtime.engines.native import BatchingEngine
    from inferstack_runtime.scheduling.scheduler import Limits

    limits = Limits(engine.max_sequences, engine.max_batch_tokens, engine.max_queue, context)
    batching = BatchingEngine(decoder, limits, engine.kv_cache_bytes, end_tokens)
    if batching.context < context:
        log.warning("context of %s cut to the %d positions that engine.kv_cache_bytes holds", model.name, batching.context)
    return batching
