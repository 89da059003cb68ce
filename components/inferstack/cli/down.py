"""Take an environment down: on this machine, or on a Kubernetes that `up` brought it up on."""

from contextlib import suppress
from typing import Annotated

import typer

from inferstack.cli.output import EnvironmentName, Failure, Json, Project, console, print_json, project_root
from inferstack.environment import InvalidEnvironment, Platform, load_environment


def register(app: typer.Typer) -> None:
    """Add the command `down`."""
    app.command("down")(down)


def down(
    name: EnvironmentName,
    project: Project = None,
    drain_seconds: Annotated[
        float | None, typer.Option("--drain-seconds", min=0, help="Longest wait for running streams; by default drain.seconds.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="On a cluster: do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Stop everything that `up` started for this environment and nothing else. On this machine keys, logs and weights stay."""
    root = project_root(project, name)
    environment = None
    with suppress(InvalidEnvironment):  # what runs on this machine can be taken down without its file
        environment = load_environment(root / "stacks", name)
    if environment is not None and environment.platform is Platform.KUBERNETES:
        from inferstack.cli import _cluster

        _cluster.down(root, name, environment, yes=yes, as_json=as_json)
        return

    from inferstack.local.down import down as stop
    from inferstack.local.progress import Event

    out = console()

    def show(event: Event) -> None:
        if not as_json and event.status in ("done", "failed"):
            detail = f"  {event.detail}" if event.detail else ""
            out.print(f"{event.phase:<12} {event.seconds:6.1f} s{detail}", markup=False, soft_wrap=True)
        elif not as_json and event.phase == "slots":
            out.print("waiting for running streams to end", style="dim")

    stopped = stop(root, name, show, drain_seconds=drain_seconds)
    if not stopped and environment is not None and environment.platform is not Platform.LOCAL:
        what = f"{name}: platform is {environment.platform}, and nothing of it runs on this machine"
        raise Failure(what, path="platform", next_step="`pulumi destroy` takes down what `pulumi up` made; docs/guide says in which order")
    if as_json:
        print_json({"environment": name, "stopped": stopped})
    else:
        out.print(f"environment {name} is down" + ("" if stopped else ": nothing was running"), markup=False)
