"""What an environment is doing."""

import json
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from inferstack.cli._records import unfinished_json, unfinished_text
from inferstack.cli.output import EnvironmentName, Json, Project, console, examples, print_json, read_environment
from inferstack.environment import Environment, Platform

WATCH_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Add the command `status`."""
    app.command("status", epilog=examples("inferstack status local", "inferstack status local --watch", "inferstack status local --json"))(
        status
    )


def status(
    name: EnvironmentName,
    project: Project = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second until Ctrl-C; with --json one object per line.")] = False,
    as_json: Json = False,
) -> None:
    """Show slots, weights, phase and parts of an environment."""
    root, environment = read_environment(name, project)
    look = _look(root, name, environment)
    if watch:
        _watch(name, look, as_json=as_json)
        return
    data = look()
    if as_json:
        print_json(data)
    else:
        console().print(_view(name, data))


def _look(root: Path, name: str, environment: Environment) -> Callable[[], dict[str, Any]]:
    if environment.platform is Platform.LOCAL:
        from inferstack.local.layout import Layout
        from inferstack.local.status import status as local_status
        from inferstack.promotion.filestore import FileStore

        store = FileStore(Layout(root, name).directory, name)
        return lambda: local_status(root, name) | {"operation": _unfinished(store)}

    from inferstack.cli._promotion import open_environment, orderly
    from inferstack.platforms.status import platform_status

    opened = open_environment(name, root)

    def look() -> dict[str, Any]:
        with orderly(name):
            return platform_status(name, opened.environment, opened.platform) | {"operation": _unfinished(opened.platform)}

    return look


def _unfinished(store: Any) -> dict[str, Any] | None:
    """What is under way by journal and lease; what cannot be read is told beside the slots already."""
    from inferstack.promotion.journal import JournalUnreadable
    from inferstack.promotion.platform import PlatformError

    try:
        return unfinished_json(store.read_journal()[0], store.read_lease(), time.time())
    except (JournalUnreadable, PlatformError):
        return None


def _watch(name: str, look: Callable[[], dict[str, Any]], *, as_json: bool) -> None:
    """Until interrupted, or nobody reads on. Without a terminal, a view is printed only when something changed."""
    out = console()
    try:
        if as_json or not out.is_terminal:
            before: dict[str, Any] = {}
            while True:
                data = look()
                if as_json:
                    sys.stdout.write(json.dumps(data) + "\n")
                    sys.stdout.flush()
                elif data != before:
                    out.print(_view(name, data))
                before = data
                _pause()
        with Live(_view(name, look()), console=out, auto_refresh=False) as live:
            while True:
                _pause()
                live.update(_view(name, look()), refresh=True)
    except KeyboardInterrupt:
        return


def _pause() -> None:
    """Until the next look. Raises BrokenPipeError as soon as the reader has gone: while nothing changes nobody would write and notice."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if poll.poll(WATCH_SECONDS * 1000):
        raise BrokenPipeError


def _view(name: str, data: dict[str, Any]) -> Group:
    parts = data.get("parts", {})
    at = f" at {data['url']}" if data.get("url") and data.get("running", True) else ""
    state = "running" if data.get("running", True) else "not fully running" if parts else "down"
    lines = [f"environment {name}: {state}{at}", f"phase {data['phase']}, generation {data['generation']}"]
    table = Table("slot", "weight", "state", "replicas", "model", "quantization", "in flight", "url", box=None)
    for slot, item in data["slots"].items():
        up = "ready" if item["healthy"] else item.get("reason") or ("ready, not yet seen by the gateway" if item["ready"] else "down")
        weight = f"{data['weights'][slot]} %"
        cells = [slot, weight, up, item["replicas"], item["model"], item["quantization"], item.get("in_flight"), item["url"]]
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    ended = [
        Text(f"{part} has ended, see {item['log']}; `inferstack up {name}` starts it again")
        for part, item in parts.items()
        if not item["alive"]
    ]
    operation = [Text(unfinished_text(name, data["operation"]))] if data.get("operation") else []
    drift = [Text(f"drift: {difference}") for difference in data.get("drift", ())]
    problems = [Text(problem, "red") for problem in data.get("problems", ())]
    return Group(*(Text(line) for line in lines), *operation, table, *ended, *drift, *problems)
