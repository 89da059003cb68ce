"""Put a streaming load on a local environment and count what it loses."""

import asyncio
import signal
from typing import Annotated

import typer

from inferstack.cli.output import EnvironmentName, ExitCode, Failure, Json, Project, console, print_json, project_root
from inferstack.environment import SlotName


def register(app: typer.Typer) -> None:
    """Add the command `load`."""
    app.command("load")(load)


def load(
    name: EnvironmentName,
    project: Project = None,
    clients: Annotated[int, typer.Option("--clients", min=1, help="Clients that each send their next chat when the last has ended.")] = 8,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How long new chats are sent; Ctrl-C ends it sooner.")] = 20.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = 32,
    new_connections: Annotated[bool, typer.Option("--new-connections", help="One connection per chat instead of one per client.")] = False,
    expect_slot: Annotated[SlotName | None, typer.Option("--expect-slot", help="Count answers of another slot.")] = None,
    as_json: Json = False,
) -> None:
    """Stream chats through the gateway and report lost and truncated ones; exit code 5 when there are any."""
    from inferstack.load import Report, Target, run_load
    from inferstack.local.machine import LocalMachine

    machine = LocalMachine.open(project_root(project, name), name)
    target = Target("127.0.0.1", machine.ports.gateway, machine.api_key(), machine.environment.models[0].name)

    async def work() -> Report:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)  # Ctrl-C: running answers end, then the report
        return await run_load(
            target,
            clients=clients,
            seconds=seconds,
            max_tokens=max_tokens,
            keep_alive=not new_connections,
            expected_slot=expect_slot,
            stop=stop,
        )

    report = asyncio.run(work())
    data = report.to_json()
    if as_json:
        print_json(data)
    else:
        for key, value in data.items():
            shown = "  ".join(f"{inner} {number}" for inner, number in value.items()) if isinstance(value, dict) else value
            console().print(f"{key:<20} {shown}", markup=False, soft_wrap=True)
    if bad := {key: data[key] for key in ("lost", "truncated", "wrong_slot") if data[key]}:
        counts = ", ".join(f"{count} {key}" for key, count in bad.items())
        raise Failure(f"of {data['requests']} requests: {counts}", code=ExitCode.PLATFORM, next_step=f"inferstack status {name}")
