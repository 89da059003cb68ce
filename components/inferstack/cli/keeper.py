"""Serve the promotion's state to Prometheus and shrink the previous slot after its rollback window."""

import signal
import sys
import threading
from typing import Annotated

import typer

from inferstack.cli.output import EnvironmentName, Failure, Project, examples


def register(app: typer.Typer) -> None:
    """Add the command `keeper`."""
    app.command("keeper", epilog=examples("inferstack keeper staging-gke --port 9095"))(keeper)


def keeper(
    name: EnvironmentName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics; 0 picks a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    project: Project = None,
) -> None:
    """Watch over an environment until it is interrupted.

    It serves phase, weights and rollback window at /metrics and shrinks the previous slot when its rollback window is over. A local
    environment runs one of its own; for a cluster, run it anywhere with access to it.
    """
    from inferstack.cli._progress import Progress
    from inferstack.cli._promotion import open_environment
    from inferstack.platforms.keeper import keep
    from inferstack.promotion.commands import Session

    opened = open_environment(name, project)
    quiet = Progress(as_json=False, quiet=True)

    def make() -> Session:
        return open_environment(name, project).session(quiet)

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        keep(make, host, port, say, stop)
    except OSError as error:
        raise Failure(f"{opened.name}: cannot listen on {host}:{port}: {error}", next_step="choose another --port") from None
