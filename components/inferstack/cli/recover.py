"""Finish what a killed or interrupted promotion left behind."""

from typing import Annotated

import typer

from inferstack.cli.output import EnvironmentName, Json, Project


def register(app: typer.Typer) -> None:
    """Add the command `recover`."""
    app.command("recover")(recover)


def recover(
    name: EnvironmentName,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the lease of a promoter that may have died.")] = 45.0,
    project: Project = None,
    as_json: Json = False,
) -> int:
    """Resume from the journal: finish, or revert where that is the safe way; shrink a previous slot whose rollback window is over.

    A frozen promotion tries the way back once more. Exit codes as for `promote`.
    """
    from inferstack.cli._progress import Progress
    from inferstack.cli._promotion import open_environment, orderly, tell
    from inferstack.promotion import commands

    opened = open_environment(name, project)
    progress = Progress(as_json=as_json)
    with orderly(name, progress), progress:
        ended = commands.recover(opened.session(progress), wait)
    return tell(name, ended, progress, as_json=as_json)
