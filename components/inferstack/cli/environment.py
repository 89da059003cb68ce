"""Explain and validate environment files."""

import typer

from inferstack.cli.output import EnvironmentName, Json, Project, console, print_json, read_environment
from inferstack.environment import explain


def register(app: typer.Typer) -> None:
    """Add the group `environment`."""
    group = typer.Typer(help="Explain and validate environment files.")
    group.command("explain")(explain_keys)
    group.command("validate")(validate)
    app.add_typer(group, name="environment")


def explain_keys(
    key: str | None = typer.Argument(None, help="A key, for instance `slots.replicas`; by default all."), as_json: Json = False
) -> None:
    """Print the reference: every key with its type, default and meaning."""
    rows = explain(key)
    if as_json:
        print_json([dict(zip(("key", "type", "default", "description"), row, strict=True)) for row in rows])
        return
    out = console()
    for path, kind, default, description in rows:
        out.print(path, style="bold cyan", end="  ", markup=False)
        out.print(f"{kind}" + (f" = {default}" if default else ""), style="dim", markup=False, soft_wrap=True)
        out.print(f"    {description}", markup=False, soft_wrap=True)


def validate(name: EnvironmentName, project: Project = None, as_json: Json = False) -> None:
    """Check one environment file: every problem at once, exit code 2 if there is any."""
    _, environment = read_environment(name, project)
    if as_json:
        print_json({"environment": name, "valid": True, "platform": environment.platform, "layer": environment.layer})
    else:
        console().print(f"{name}: valid, {environment.platform}, layer {environment.layer}", markup=False)
