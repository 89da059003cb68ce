"""Puts the parts of a process together from its configuration."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from inferstack_runtime.access.authenticate import Authenticator
from inferstack_runtime.access.jwt import JwtVerifier
from inferstack_runtime.access.keys import InvalidKeys, KeyFile
from inferstack_runtime.access.limits import Limiter
from inferstack_runtime.api.service import Service
from inferstack_runtime.caching.identity import Identity
from inferstack_runtime.caching.response import ResponseCache
from inferstack_runtime.caching.semantic import SemanticCache
from inferstack_runtime.caching.shared import SharedStore
from inferstack_runtime.checks.base import CheckUnavailable
from inferstack_runtime.config import CacheConfig, InvalidConfig, ModelConfig, RuntimeConfig
from inferstack_runtime.engines.base import LoadedModel
from inferstack_runtime.lifecycle.models import Loader, Models, Progress
from inferstack_runtime.lifecycle.sources import cache_folder, local_source, weight_bytes
from inferstack_runtime.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inferstack_runtime.caching.embedding import Embedder


def assemble(config: RuntimeConfig, loader: Loader | None = None) -> Service:
    """A service that is not loaded yet; raises InvalidConfig when a file that the configuration names cannot be used."""
    metrics = Metrics()
    keys = None
    if config.access.keys_file is not None:
        try:
            keys = KeyFile(Path(config.access.keys_file), config.access.tiers)
        except (OSError, InvalidKeys) as error:
            raise InvalidConfig(f"access.keys_file: {error}") from None
    jwt = None
    if config.access.jwt is not None:
        try:
            jwt = JwtVerifier(config.access.jwt, config.access.tiers)
        except (OSError, ValueError) as error:
            raise InvalidConfig(str(error)) from None
    store = open_shared(config.cache, metrics)
    semantic = None
    if config.cache.semantic.enabled:
        semantic = SemanticCache(config.cache.semantic, LazyEmbedder(config.cache.semantic.embedding_source).embed, store, metrics)
    checks = None
    if config.checks:
        from inferstack_runtime.checks.opening import open_checks

        try:
            checks = open_checks(config.checks, metrics)
        except CheckUnavailable as error:
            raise InvalidConfig(str(error)) from None
    tracer = None
    if config.otlp_endpoint is not None:
        from inferstack_runtime.tracing import Tracer, TracingUnavailable

        try:
            tracer = Tracer(config.otlp_endpoint, config.identity)
        except TracingUnavailable as error:
            raise InvalidConfig(str(error)) from None
    return Service(
        config=config,
        models=Models(config.models, loader or engine_loader(config), metrics, config.lifecycle, memory_of(config)),
        authenticator=Authenticator(keys, tuple(config.access.tiers), jwt),
        limiter=Limiter(config.access.tiers, store, metrics, config.identity.environment),
        cache=ResponseCache(config.cache, config.identity.generation, store, metrics, semantic),
        store=store,
        metrics=metrics,
        clock=time.time,
        checks=checks,
        tracer=tracer,
    )


def open_shared(cache: CacheConfig, metrics: Metrics) -> SharedStore | None:
    """The server that replicas share, not connected yet; None where none is configured."""
    if cache.url is None:
        return None
    identity = Identity(cache.identity, metrics) if cache.identity is not None else None
    return SharedStore(cache.url, cache.timeout_seconds, metrics, identity=identity)


class LazyEmbedder:
    """Vectors of texts from a thread; the model is loaded by the first use."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._embedder: Embedder | None = None
        self._loading = asyncio.Lock()

    async def embed(self, texts: list[str]) -> "NDArray[np.float32]":
        """Vectors of length 1, float32 [len(texts), 384]; raises ModelLoadError."""
        async with self._loading:
            if self._embedder is None:
                from inferstack_runtime.caching.embedding import load_embedder

                self._embedder = await asyncio.to_thread(load_embedder, self._source)
        return await asyncio.to_thread(self._embedder.embed, texts)


def memory_of(config: RuntimeConfig) -> Callable[[ModelConfig], int]:
    """What a model will need, before it is loaded: its weight files and the KV cache's bound."""
    cache = cache_folder(config.weight_cache)
    return lambda model: weight_bytes(model.source, cache) + config.engine.kv_cache_bytes


def engine_loader(config: RuntimeConfig) -> Loader:
    """Loads models with the engines of this package, after bringing remote ones to this machine."""
    cache = cache_folder(config.weight_cache)

    def load(model: ModelConfig, report: Progress) -> LoadedModel:
        from inferstack_runtime.engines.registry import load_model  # numpy and the kernels: only once a model is loaded

        source = local_source(model.source, model.digest, cache, report)
        report("loading", 0.0)
        engine = config.engine
        if model.max_sequences is not None:
            engine = engine.model_copy(update={"max_sequences": model.max_sequences})
        return load_model(model.model_copy(update={"source": source}), engine, config.weight_cache)

    return load
