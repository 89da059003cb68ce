"""`up` and `down` on a Kubernetes that is there already."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from inferstack.cli.output import ExitCode, Failure, console, print_json
from inferstack.environment import Environment
from inferstack.local.progress import Event, Report
from inferstack.platforms.kube_open import connect
from inferstack.platforms.kube_up import Cluster, Lacking
from inferstack.program.render import NotRenderable
from inferstack.program.run import ProgramFailed
from inferstack.promotion.platform import PlatformError, SlotFailed


def up(root: Path, name: str, environment: Environment, *, yes: bool, as_json: bool) -> None:
    """Apply the environment's objects, wait for both slots, say where it answers. Raises Failure."""
    with _orderly(name, "up"):
        cluster = _open(root, name, environment, "bring up", yes=yes, as_json=as_json)
        try:
            brought = cluster.up(_report(as_json=as_json))
        except Lacking as error:
            raise Failure(
                str(error),
                code=ExitCode.PLATFORM,
                next_step="nothing was changed; docs/guide/clusters.md says what a cluster must have",
                details={"lacks": [{"what": lack.what, "remedy": lack.remedy} for lack in error.lacks]},
            ) from None
        except SlotFailed as error:
            raise Failure(
                f"{name}: {error}",
                code=ExitCode.PLATFORM,
                next_step=f"what is ready stays; mend it and run `inferstack up {name}` again, or `inferstack down {name}`",
            ) from None
    if as_json:
        ready = {
            "event": "ready",
            "environment": name,
            "objects": brought.objects,
            "url": brought.url,
            "left_alone": list(brought.left_alone),
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        return
    out = console()
    if brought.left_alone:
        out.print(f"{' and '.join(brought.left_alone)} were promoted and stay as they are: `inferstack promote {name}` changes them")
    where = f"{brought.url}/v1" if brought.url else "the Gateway has no address yet: its controller gives it one"
    out.print(f"environment {name} is up in {environment.namespace}: {where}", markup=False, soft_wrap=True)


def down(root: Path, name: str, environment: Environment, *, yes: bool, as_json: bool) -> None:
    """Delete what `up` made, and the namespace unless it holds something else. Raises Failure."""
    with _orderly(name, "down"):
        cluster = _open(root, name, environment, "take down", yes=yes, as_json=as_json)
        deleted, kept = cluster.down((lambda _: None) if as_json else _report(as_json=False))
    if as_json:
        print_json({"environment": name, "deleted": deleted, "namespace_kept_for": kept})
    else:
        console().print(f"environment {name} is down" + ("" if deleted else ": nothing was there"), markup=False)


@contextmanager
def _orderly(name: str, command: str) -> Iterator[None]:
    """Faults as failures. Both commands may be repeated after any of them."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failure("interrupted", code=ExitCode.INTERRUPTED, next_step=f"`inferstack {command} {name}` goes on") from None
    except ProgramFailed as error:
        raise Failure(str(error), path=name) from None
    except NotRenderable as error:
        raise Failure(f"{name}: {error}", path=error.paths[0]) from None
    except PlatformError as error:
        raise Failure(
            f"{name}: {error}", code=ExitCode.PLATFORM, next_step=f"`inferstack {command} {name}` again once that is mended"
        ) from None


def _open(root: Path, name: str, environment: Environment, doing: str, *, yes: bool, as_json: bool) -> Cluster:
    api, platform = connect(root, name, environment)
    if not yes:
        where = f"{environment.context or 'the current context'} ({api.server}), namespace {environment.namespace}"
        if as_json or not sys.stdin.isatty():
            raise PlatformError(f"this would {doing} {name} on {where}, and nobody can be asked here; add --yes")
        if not typer.confirm(f"{doing.capitalize()} {name} on {where}?", default=False):
            raise Failure("nothing was changed", code=ExitCode.INPUT)
    return Cluster(root, name, environment, api, platform)


def _report(*, as_json: bool) -> Report:
    out = console()

    def show(event: Event) -> None:
        if as_json:
            sys.stdout.write(json.dumps(event.to_json()) + "\n")
            sys.stdout.flush()
        elif event.status != "started":
            detail = f"  {event.detail}" if event.detail else ""
            out.print(f"{event.phase:<12} {event.seconds:6.1f} s  {event.status}{detail}", markup=False, soft_wrap=True)

    return show
