"""Can this engine serve this model in this format on this hardware, and can the model be split so."""

from collections.abc import Iterator

from inferstack.environment import TENSOR_PARALLEL, Environment, Model
from inferstack.planning import catalogue, placement, shapes
from inferstack.planning.findings import Finding

_NEED_GPU = ("vllm", "sglang")


def known(e: Environment) -> Iterator[Finding]:
    """Every model is one of the catalogue; else fit cannot be checked."""
    for i, model in enumerate(e.models):
        if shapes.architecture(model):
            continue
        if model.config is not None:
            yield _unread(i, model)
            continue
        written = model.architecture or model.name
        meant = catalogue.nearest(written.lower(), catalogue.architectures())
        fix = f"set architecture: {meant}" if meant else "set config to its config.json, or architecture to a model of the same shape"
        path = f"models[{i}].architecture" if model.architecture else f"models[{i}].name"
        severity = "error" if model.architecture else "warning"
        message = f"`{written}` is no model of the catalogue, so that its memory cannot be planned."
        yield Finding("model-unknown", "error" if severity == "error" else "warning", path, message, f"{fix}.")


def _unread(i: int, model: Model) -> Finding:
    """What is wrong with a model's own config.json."""
    try:
        shapes.from_config(model.config or {}, model.name)
        said = ""
    except shapes.UnknownShape as error:
        said = str(error)
    message = f"the memory of `{model.name}` cannot be planned from its config.json: {said}."
    return Finding("model-config", "error", f"models[{i}].config", message, "give the config.json of its repository, or set architecture.")


def context(e: Environment) -> Iterator[Finding]:
    """No context is longer than what the model was made for."""
    for i, model in enumerate(e.models):
        architecture = shapes.architecture(model)
        if architecture and model.context > architecture.context:
            message = f"context {model.context} is beyond what {architecture.name} was made for, {architecture.context} tokens."
            fix = f"set context to at most {architecture.context}{_longer(architecture.name, model.context)}."
            yield Finding("context-beyond-model", "error", f"models[{i}].context", message, fix)


def _longer(name: str, wanted: int) -> str:
    family = name.split("-")[0].split(".")[0]
    able = [a.name for a in catalogue.architectures().values() if a.context >= wanted and a.name.startswith(family)]
    return f", or serve {able[0]}" if able else ""


def formats(e: Environment) -> Iterator[Finding]:
    """The engine loads the format, and the hardware computes it."""
    on_gpu = {i for i, _ in placement.gpu_models(e)}
    kind = catalogue.gpu(e.gpu.accelerator) if e.gpu else None
    for i, model in enumerate(e.models):
        path, form = f"models[{i}].quantization", catalogue.formats()[model.quantization]
        if e.engine.kind not in form.engines:
            others = _formats_of(e.engine.kind, kind if i in on_gpu else None, i in on_gpu)
            message = f"engine {e.engine.kind} does not serve {form.name}."
            fix = f"use {' or '.join(others[:3])}, or engine.kind {' or '.join(form.engines[:2])}."
            yield Finding("quantization-unsupported", "error", path, message, fix)
        elif i not in on_gpu and e.engine.kind not in form.cpu_engines and e.engine.kind not in _NEED_GPU:
            others = _formats_of(e.engine.kind, None, False)
            message = f"{form.name} needs a GPU, and this model runs on CPUs."
            yield Finding("quantization-hardware", "error", path, message, f"use {' or '.join(others[:3])}, or give the environment a gpu.")
        elif i in on_gpu and kind and kind.capability < form.capability:
            others = _formats_of(e.engine.kind, kind, True)
            able = [k.name for k in catalogue.gpus().values() if k.capability >= form.capability]
            sold = [name for name in able if name in catalogue.accelerators(e.platform.value)]
            message = f"{form.name} needs compute capability {form.capability}, and `{kind.name}` has {kind.capability}."
            yield Finding(
                "quantization-hardware",
                "error",
                path,
                message,
                f"use {' or '.join(others[:3])}, or gpu.accelerator {' or '.join(sold[:2])}.",
            )
        elif i in on_gpu and kind and kind.capability < form.computes:
            message = f"`{kind.name}` unpacks {form.name} to 16 bits before it multiplies: memory is saved, time is not."
            better = [f for f in _formats_of(e.engine.kind, kind, True) if f in ("int8", "awq", "gptq")]
            yield Finding("format-unpacked", "warning", path, message, f"nothing, or use {' or '.join(better) or 'bf16'}.")


def _formats_of(engine: str, kind: catalogue.Gpu | None, on_gpu: bool) -> list[str]:
    """Formats that the engine serves on the hardware, smallest weights first."""
    rows = [
        f
        for f in catalogue.formats().values()
        if engine in f.engines
        and (kind is None or kind.capability >= f.capability)
        and (on_gpu or engine in f.cpu_engines or engine in _NEED_GPU)
    ]
    return [f.name for f in sorted(rows, key=lambda f: (f.linear_bits, f.name))] or ["none"]


def engine(e: Environment) -> Iterator[Finding]:
    """The engine has the hardware that it needs."""
    if e.engine.kind in _NEED_GPU and placement.cpu_models(e):
        i, model = placement.cpu_models(e)[0]
        where = f"`{model.name}` would run on CPUs" if e.gpu else "the environment has no gpu"
        fix = "add a gpu section, or use engine.kind native." if e.gpu is None else f"set models[{i}].tier to quality, or drop the model."
        yield Finding("engine-without-gpu", "error", "engine.kind", f"{e.engine.kind} needs a GPU, and {where}.", fix)


def split(e: Environment) -> Iterator[Finding]:
    """GPUs of a replica are all used, and the model can be divided by them."""
    if e.gpu is None:
        return
    tensor, pipeline = e.engine.tensor_parallel, e.engine.pipeline_parallel
    if e.engine.kind in TENSOR_PARALLEL and tensor * pipeline != e.gpu.count:
        message = f"tensor_parallel {tensor} x pipeline_parallel {pipeline} is not gpu.count {e.gpu.count}: GPUs would be missing or idle."
        fix = f"set engine.tensor_parallel to {max(1, e.gpu.count // pipeline)} or gpu.count to {tensor * pipeline}."
        yield Finding("parallel-mismatch", "error", "engine.tensor_parallel", message, fix)
        return
    if e.engine.kind in ("native", "transformers") and e.gpu.count > 1:
        message = f"engine {e.engine.kind} uses one GPU of a replica's {e.gpu.count}."
        yield Finding(
            "parallel-mismatch", "error", "gpu.count", message, "set gpu.count to 1, or use engine.kind vllm with tensor_parallel."
        )
    for i, model in placement.gpu_models(e):
        yield from _divisible(i, model, tensor, pipeline)


def _divisible(i: int, model: Model, tensor: int, pipeline: int) -> Iterator[Finding]:
    shape = shapes.architecture(model)
    if shape is None:
        return
    if not shapes.splits(shape, tensor):
        able = [n for n in (1, 2, 4, 8, 16) if shapes.splits(shape, n)]
        heads = f"{shape.heads} attention heads" + ("" if shape.heads % tensor else f" and {shape.kv_heads} of keys and values")
        message = f"{shape.name} has {heads}, which {tensor} GPUs cannot share evenly."
        yield Finding("parallel-heads", "error", "engine.tensor_parallel", message, f"use tensor_parallel {' or '.join(map(str, able))}.")
    if pipeline > shape.layers:
        message = f"models[{i}] has {shape.layers} layers, fewer than {pipeline} pipeline stages."
        yield Finding("parallel-layers", "error", "engine.pipeline_parallel", message, f"use at most {shape.layers}.")


CHECKS = (known, context, formats, engine, split)
