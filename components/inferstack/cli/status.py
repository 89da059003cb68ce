"""What an environment is doing."""

import typer
from rich.table import Table

from inferstack.cli.output import EnvironmentName, ExitCode, Failure, Json, Project, console, print_json, read_environment
from inferstack.environment import Platform


def register(app: typer.Typer) -> None:
    """Add the command `status`."""
    app.command("status")(status)


def status(name: EnvironmentName, project: Project = None, as_json: Json = False) -> None:
    """Show slots, weights, phase and parts of an environment."""
    from inferstack.local.status import status as look

    root, environment = read_environment(name, project)
    if environment.platform is not Platform.LOCAL:
        raise Failure(f"status of platform {environment.platform} is not read yet", code=ExitCode.PLATFORM, path="platform")
    data = look(root, name)
    if as_json:
        print_json(data)
        return
    out = console()
    at = f" at {data['url']}" if data["running"] else ""
    out.print(f"environment {name}: {'running' if data['running'] else 'not fully running' if data['parts'] else 'down'}{at}", markup=False)
    out.print(f"phase {data['phase']}, generation {data['generation']}", markup=False)
    table = Table("slot", "weight", "state", "model", "quantization", "in flight", "url", box=None)
    for slot, item in data["slots"].items():
        state = "ready" if item["healthy"] else item.get("reason") or ("ready, not yet seen by the gateway" if item["ready"] else "down")
        cells = [slot, f"{data['weights'][slot]} %", state, item["model"], item["quantization"], item.get("in_flight"), item["url"]]
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    out.print(table)
    for part, item in data["parts"].items():
        if not item["alive"]:
            out.print(f"{part} has ended, see {item['log']}; `inferstack up {name}` starts it again", markup=False, soft_wrap=True)
