"""Go back to the previous version: only weights move while it is still warm."""

from typing import Annotated

import typer

from inferstack.cli.output import EnvironmentName, JsonEvents, Project, examples


def register(app: typer.Typer) -> None:
    """Add the command `rollback`."""
    app.command("rollback", epilog=examples("inferstack rollback local", "inferstack rollback prod-gke --json"))(rollback)


def rollback(
    name: EnvironmentName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accepted as `promote` has it; a rollback never asks.")] = False,
    project: Project = None,
    as_json: JsonEvents = False,
) -> int:
    """Send all traffic back to the previous version, after it was verified to be healthy now.

    An unfinished promotion is turned back. Exit codes: 0 done, 2 there is nothing to go back to, 4 the previous version is not healthy
    and the live one stays, 5 the platform failed or somebody else promotes.
    """
    from inferstack.cli._progress import Progress
    from inferstack.cli._promotion import open_environment, orderly, tell
    from inferstack.promotion import commands

    opened = open_environment(name, project)
    progress = Progress(as_json=as_json)
    with orderly(name, progress), progress:
        ended = commands.rollback(opened.session(progress), commands.policy_of(opened.environment))
    return tell(name, ended, progress, as_json=as_json)
