"""What each kind of engine image is told and asked: arguments, probes, ports, metric names."""

from collections.abc import Callable
from dataclasses import dataclass

from inferstack.environment import Engine, EngineKind, Model
from inferstack.planning.sources import hub_source
from inferstack_dashboards.engines import Gauges, gauges

CONFIG_PATH = "/etc/inferstack/config/runtime.json"
WEIGHTS_PATH = "/models"
CACHE_PATH = "/var/cache/inferstack"
KEY_ENTRY = "api-key"
"""Entry of the keys' Secret that holds the one key that an engine image checks."""
KEY_FILE = f"/etc/inferstack/keys/{KEY_ENTRY}"


@dataclass(frozen=True)
class EngineProfile:
    """How an engine image is run. `drains`: it finishes running requests by itself after SIGTERM."""

    command: tuple[str, ...]
    arguments: Callable[[Engine, Model], list[str]]
    ready_path: str
    live_path: str | None
    """None where no path is known that answers whatever the load: that the port is open is enough."""
    own_metrics_port: int | None
    """Port of the metrics where it is not the API's."""
    drains: bool
    own_identity: bool
    """It answers with the slot's identity header; for others the route sets it."""
    metrics: Gauges
    checks_key: bool = False
    """It is given the key in `KEY_FILE` and refuses requests without it; this kit's own engines check hashed keys by themselves.

    Sources: vLLM docs/serving/openai_compatible_server.md (paths under /v1 are guarded, /health, /version and /metrics are not); SGLang
    docs/advanced_features/server_arguments.md (/health and /metrics are not guarded); llama.cpp tools/server/README.md.
    """


def profile(kind: EngineKind) -> EngineProfile:
    """The profile of an engine kind."""
    return _PROFILES[kind]


def model_location(model: Model) -> str:
    """What an engine image is given as its model: a repository name, or a path under the mounted weights."""
    scheme, _, rest = model.source.partition("://")
    if hub := hub_source(model.source):
        return hub.repository
    if scheme == "file":
        return "/" + rest.lstrip("/")
    if scheme in ("gs", "abfss", "s3"):
        return f"{WEIGHTS_PATH}/{rest.partition('/')[2]}".rstrip("/")
    return rest


def bucket(model: Model) -> str | None:
    """Bucket or container of a model in object storage; None for other sources."""
    scheme, _, rest = model.source.partition("://")
    return rest.partition("/")[0] if scheme in ("gs", "abfss", "s3") else None


def _kit(engine: Engine, model: Model) -> list[str]:
    return ["serve", "--config", CONFIG_PATH]


def _revision(model: Model) -> list[str]:
    hub = hub_source(model.source)
    return ["--revision", hub.revision] if hub and hub.revision else []


def _weights(model: Model) -> list[str]:
    """Type and method of the weights, for vLLM and SGLang in the same words.

    Weights that were quantized before name their method in their own config.json, from which both engines take it, with the best kernel
    for the GPU; a method that is given beside it and is called otherwise there (compressed-tensors) ends the engine, and a kernel that the
    GPU does not have too. Only what the engine is to quantize as it loads is said (docs of both on quantization).
    """
    dtype = {"none": "bfloat16", "bf16": "bfloat16", "fp16": "float16"}.get(model.quantization)
    method = {"fp8": "fp8", "nf4": "bitsandbytes"}.get(model.quantization)
    if method == "fp8" and "fp8" in model.source.lower():
        method = None
    return (["--dtype", dtype] if dtype else []) + (["--quantization", method] if method else [])


def _vllm(engine: Engine, model: Model) -> list[str]:
    found = [model_location(model), "--served-model-name", model.name, "--host", "0.0.0.0", "--port", str(engine.port)]
    found += ["--max-model-len", str(model.context), "--max-num-seqs", str(engine.max_sequences)]
    found += ["--max-num-batched-tokens", str(engine.max_batch_tokens)]
    found += ["--tensor-parallel-size", str(engine.tensor_parallel), "--pipeline-parallel-size", str(engine.pipeline_parallel)]
    return found + _revision(model) + _weights(model)


def _sglang(engine: Engine, model: Model) -> list[str]:
    found = ["--model-path", model_location(model), "--served-model-name", model.name, "--host", "0.0.0.0", "--port", str(engine.port)]
    found += ["--context-length", str(model.context), "--max-running-requests", str(engine.max_sequences), "--enable-metrics"]
    return [*found, "--tensor-parallel-size", str(engine.tensor_parallel), *_revision(model), *_weights(model)]


def _llamacpp(engine: Engine, model: Model) -> list[str]:
    hub = hub_source(model.source)
    where = ["--hf-repo", hub.repository] if hub else ["--model", model_location(model)]
    where += ["--hf-file", hub.file] if hub and hub.file else []
    sizes = ["--ctx-size", str(model.context * engine.max_sequences), "--parallel", str(engine.max_sequences)]
    threads = ["--threads", str(engine.threads)] if engine.threads else []
    listening = ["--host", "0.0.0.0", "--port", str(engine.port), "--api-key-file", KEY_FILE]
    return [*where, "--alias", model.name, *listening, *sizes, "--metrics", *threads]


def _none(engine: Engine, model: Model) -> list[str]:
    return []


def _shell(script: str) -> tuple[str, ...]:
    """A command that reads the key from its file, and ends where there is none; the arguments follow as they are."""
    return ("/bin/sh", "-c", f"set -eu; {script}", "engine")


_VLLM_COMMAND = _shell(f'VLLM_API_KEY=$(cat {KEY_FILE}); export VLLM_API_KEY; exec vllm serve "$@"')
_SGLANG_COMMAND = _shell(f'key=$(cat {KEY_FILE}); exec python3 -m sglang.launch_server --api-key "$key" "$@"')
_KIT = EngineProfile(
    (), _kit, "/readyz", "/livez", 9090, True, True,
    gauges("native"),
)  # fmt: skip
_PROFILES: dict[str, EngineProfile] = {
    "native": _KIT,
    "transformers": _KIT,
    "vllm": EngineProfile(
        _VLLM_COMMAND, _vllm, "/health", "/version", None, False, False, gauges("vllm"), checks_key=True,
    ),
    "sglang": EngineProfile(
        _SGLANG_COMMAND, _sglang, "/health", "/metrics", None, False, False, gauges("sglang"), checks_key=True,
    ),
    "llamacpp": EngineProfile(
        (), _llamacpp, "/health", "/v1/models", None, False, False, gauges("llamacpp"), checks_key=True,
    ),
    "openai": EngineProfile((), _none, "/v1/models", None, None, False, False, gauges("openai")),
}  # fmt: skip
