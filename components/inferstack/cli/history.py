"""What was promoted, rolled back and reverted, by whom and why."""

from datetime import UTC, datetime

import typer

from inferstack.cli.output import EnvironmentName, Json, Project, console, examples, print_json


def register(app: typer.Typer) -> None:
    """Add the command `history`."""
    app.command("history", epilog=examples("inferstack history local", "inferstack history local --json"))(history)


def history(name: EnvironmentName, project: Project = None, as_json: Json = False) -> None:
    """Print ended promotions and rollbacks, newest first."""
    from inferstack.cli._promotion import open_environment, orderly
    from inferstack.cli._records import entry_json

    opened = open_environment(name, project, running=False)
    with orderly(name):
        journal, _ = opened.platform.read_journal()
    entries = list(reversed(journal.history)) if journal else []
    if as_json:
        print_json({"environment": name, "history": [entry_json(entry) for entry in entries]})
        return
    out = console()
    if not entries:
        out.print(f"{name}: nothing was promoted yet")
    for entry in entries:
        when = datetime.fromtimestamp(entry.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        line = f"{when}  {entry.kind:<8} {entry.outcome:<9} {entry.slot:<5} {entry.summary} (generation {entry.generation})"
        out.print(f"{line}, {entry.ended - entry.started:.0f} s, by {entry.by}", markup=False, soft_wrap=True)
        if entry.reason:
            out.print(f"    {entry.reason}", markup=False, soft_wrap=True)
