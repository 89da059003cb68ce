"""Ask a local environment a question."""

import sys
import time
from typing import Annotated

import typer

from inferstack.cli.output import EnvironmentName, Failure, Json, Project, print_json, project_root


def register(app: typer.Typer) -> None:
    """Add the command `chat`."""
    app.command("chat")(chat)


def chat(
    name: EnvironmentName,
    question: Annotated[str, typer.Argument(help="What to ask; `-` reads it from standard input.")],
    project: Project = None,
    model: Annotated[str | None, typer.Option("--model", help="One of the environment's models; by default the first.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0: always the likeliest word.")] = 0,
    as_json: Json = False,
) -> None:
    """Stream an answer through the gateway."""
    from inferstack.local.chat import stream_chat
    from inferstack.local.machine import LocalMachine

    machine = LocalMachine.open(project_root(project, name), name)
    names = [item.name for item in machine.environment.models]
    if model is not None and model not in names:
        raise Failure(f"environment {name} has no model {model}", path="models", next_step=f"one of {', '.join(names)}")
    messages = [{"role": "user", "content": sys.stdin.read() if question == "-" else question}]
    started, first, text = time.monotonic(), None, ""
    limit = machine.environment.gateway.timeout_seconds
    port, key = machine.ports.gateway, machine.api_key()
    answer = stream_chat(port, key, model or names[0], messages, max_tokens=max_tokens, timeout=limit, temperature=temperature)
    for piece in answer:
        first = time.monotonic() - started if first is None else first
        text += piece
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        print_json({"answer": text, "model": model or names[0], "seconds_to_first_token": first and round(first, 3), "seconds": seconds})
    else:
        sys.stdout.write("\n")
