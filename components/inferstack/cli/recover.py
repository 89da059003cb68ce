"""Finish what a killed or interrupted promotion left behind."""

from typing import TYPE_CHECKING, Annotated

import typer

from inferstack.cli.output import EnvironmentName, JsonEvents, Project, examples

if TYPE_CHECKING:
    from inferstack.cli._progress import Progress
    from inferstack.cli._promotion import Opened
    from inferstack.local.progress import Event as PhaseEvent


def register(app: typer.Typer) -> None:
    """Add the command `recover`."""
    app.command("recover", epilog=examples("inferstack recover local", "inferstack recover prod-gke --wait 0 --json"))(recover)


def recover(
    name: EnvironmentName,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the lease of a promoter that may have died.")] = 45.0,
    project: Project = None,
    as_json: JsonEvents = False,
) -> int:
    """Resume from the journal: finish, or revert where that is the safe way; shrink a previous slot whose rollback window is over.

    Where nothing is unfinished but somebody moved weights by hand, all traffic goes back to the live slot (exit code 4).
    On one machine, what carries requests and has ended (a slot with weight, the gateway) is started again first. A frozen promotion tries
    the way back once more. Exit codes as for `promote`.
    """
    from inferstack.cli._progress import Progress
    from inferstack.cli._promotion import open_environment, orderly, tell
    from inferstack.promotion import commands

    opened = open_environment(name, project)
    progress = Progress(as_json=as_json)
    with orderly(name, progress), progress:
        _revive(opened, progress)
        ended = commands.recover(opened.session(progress), wait, commands.policy_of(opened.environment))
    return tell(name, ended, progress, as_json=as_json)


def _revive(opened: "Opened", progress: "Progress") -> None:
    """On one machine; what cannot be started again is told, and left to the journal: the other slot may be well."""
    from inferstack.local.errors import LocalError, NotRunning
    from inferstack.local.up import revive
    from inferstack.platforms.local import LocalPlatform
    from inferstack.promotion.events import Event

    def told(event: "PhaseEvent") -> None:
        if event.status == "done":
            progress(Event("step", f"{event.phase} had ended and was started again", progress.now()))

    if not isinstance(opened.platform, LocalPlatform):
        return
    try:
        revive(opened.root, opened.name, told)
    except NotRunning:
        raise
    except LocalError as error:
        progress(Event("retry", error.message, progress.now()))
