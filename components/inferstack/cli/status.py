"""What an environment is doing."""

from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from inferstack.cli.output import EnvironmentName, Json, Project, console, print_json, read_environment
from inferstack.environment import Platform


def register(app: typer.Typer) -> None:
    """Add the command `status`."""
    app.command("status")(status)


def status(name: EnvironmentName, project: Project = None, as_json: Json = False) -> None:
    """Show slots, weights, phase and parts of an environment."""
    from inferstack.local.status import status as look

    root, environment = read_environment(name, project)
    data = look(root, name) if environment.platform is Platform.LOCAL else _on_cluster(name, project)
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
    for difference in data.get("drift", ()):
        out.print(f"drift: {difference}", markup=False, soft_wrap=True)


def _on_cluster(name: str, project: Path | None) -> dict[str, Any]:
    from inferstack.cli._promotion import open_environment, orderly
    from inferstack.platforms.status import platform_status

    opened = open_environment(name, project)
    with orderly(name):
        return platform_status(name, opened.environment, opened.platform)
