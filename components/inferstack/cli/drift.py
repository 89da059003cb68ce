"""Say where the live state differs from what promotions made."""

import typer

from inferstack.cli.output import EnvironmentName, ExitCode, Json, Project, console, examples, print_json


def register(app: typer.Typer) -> None:
    """Add the command `drift`."""
    app.command("drift", epilog=examples("inferstack drift staging-gke", "inferstack drift local --json"))(drift)


def drift(name: EnvironmentName, project: Project = None, as_json: Json = False) -> int:
    """Compare weights, slots and route with the journal and with what was rendered. Exit code 3 when something differs."""
    from inferstack.cli._promotion import open_environment, orderly
    from inferstack.promotion.drift import find_drift

    opened = open_environment(name, project)
    with orderly(name):
        journal, _ = opened.platform.read_journal()
        seen = opened.platform.observe()
    found = list(find_drift(journal, seen)) if journal else list(seen.drift)
    if as_json:
        print_json({"environment": name, "drift": found})
    else:
        out = console()
        for difference in found:
            out.print(difference, markup=False, soft_wrap=True)
        if not found:
            out.print(f"{name}: no drift")
    return int(ExitCode.FINDINGS if found else ExitCode.DONE)
