"""Open the console of a local environment."""

import sys
import webbrowser
from typing import Annotated

import typer

from inferstack.cli.output import EnvironmentName, Json, Project, console, print_json, project_root


def register(app: typer.Typer) -> None:
    """Add the command `console`."""
    app.command("console")(open_console)


def open_console(
    name: EnvironmentName,
    project: Project = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    as_json: Json = False,
) -> None:
    """Print the console's address with the key that opens it; the key stays in the browser (a fragment is never sent)."""
    from inferstack.local.machine import LocalMachine

    machine = LocalMachine.open(project_root(project, name), name)
    url = f"{machine.gateway_url}/console"
    key = machine.api_key(admin=True)
    if as_json:
        print_json({"environment": name, "url": url, "key": key})
    else:
        console().print(f"{url}#key={key}", markup=False, soft_wrap=True)
    if open_browser and not webbrowser.open(f"{url}#key={key}"):
        sys.stderr.write("no browser can be opened here; open the address above\n")
