"""Turn an unfinished promotion back."""

import typer

from inferstack.cli.output import EnvironmentName, ExitCode, JsonEvents, Project, examples


def register(app: typer.Typer) -> None:
    """Add the command `abort`."""
    app.command("abort", epilog=examples("inferstack abort local"))(abort)


def abort(name: EnvironmentName, project: Project = None, as_json: JsonEvents = False) -> int:
    """Give an unfinished promotion up: traffic goes back to the live slot, the new version is stopped.

    Exit codes: 0 turned back, 2 nothing is unfinished, 5 the platform failed or the promoter is still at work (interrupt it there).
    """
    from inferstack.cli._progress import Progress
    from inferstack.cli._promotion import open_environment, orderly, tell
    from inferstack.promotion import commands
    from inferstack.promotion.journal import Outcome

    opened = open_environment(name, project)
    progress = Progress(as_json=as_json)
    with orderly(name, progress), progress:
        ended = commands.abort(opened.session(progress))
    if ended.outcome is Outcome.REVERTED:
        progress.finish(name, ended)
        return int(ExitCode.DONE)
    return tell(name, ended, progress, as_json=as_json)
