"""The command `inferstack`: one module per command, imported only when that command is called.

A command is a module `cli/<command>.py` (dashes become underscores) with a first docstring line and one function

    def register(app: typer.Typer) -> None: ...

that adds exactly the command of that name, or a group of that name by `app.add_typer(group, name=...)`. Modules import
what is heavy or optional (Pulumi, the cluster client, the local parts) inside their functions, so that `--help` works
without any extra. Errors are raised, never printed: `output.Failure`, `InvalidEnvironment`; this module turns them into
an exit code and a message, or a JSON object when `--json` was given.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from typer.main import get_command

from inferstack.cli._stop import install
from inferstack.cli.output import ExitCode, Failure, show_failure, silence, to_failure, unheard
from inferstack.promotion.whole import FULL


def main() -> None:
    """Entry point: run the command of this process's arguments and exit with its code."""
    install(signal.SIGINT)
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115 - None: closed from the start
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code (see `output.ExitCode`); raises nothing but a programming error."""
    arguments = list(arguments) or ["--help"]
    as_json = "--json" in arguments
    try:
        result = get_command(_application(arguments)).main(arguments, prog_name="inferstack", standalone_mode=False)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            silence(sys.stdout)
        if result != ExitCode.INTERRUPTED:
            return result if isinstance(result, int) else int(ExitCode.DONE)
        failure = Failure("interrupted", code=ExitCode.INTERRUPTED)  # typer only returns it
    except (BrokenPipeError, SystemExit) as error:  # the reader of a pipe has gone, for instance `head`; click makes an exit of it
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        silence(sys.stdout)
        return int(ExitCode.DONE)
    except (KeyboardInterrupt, typer.Abort):
        failure = Failure("interrupted", code=ExitCode.INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            silence(sys.stdout)
            error = Failure(f"the output cannot be written: {error.strerror}", code=ExitCode.PLATFORM, next_step="make room for it")
        known = to_failure(error)
        if known is None:
            raise
        failure = known
    with unheard(stderr=True):
        show_failure(failure, as_json=as_json)
    return int(failure.code)


def command_names() -> list[str]:
    """Names of all commands: the modules here that have a function `register`, found without importing them."""
    return sorted(file.stem.replace("_", "-") for file in Path(__file__).parent.glob("[a-z]*.py") if _has_register(file))


def _has_register(file: Path) -> bool:
    return "\ndef register(" in file.read_text(encoding="utf-8")


def _application(arguments: Sequence[str]) -> typer.Typer:
    """The application with the called command only; with all of them for `--help` and for a name that is none."""
    names = command_names()
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    app = typer.Typer(
        help="Plan, run and promote quantized LLM inference.", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    app.callback()(_no_options)  # a callback keeps the application a group, even with one command
    for name in [called] if called in names else names:
        importlib.import_module(f"inferstack.cli.{name.replace('-', '_')}").register(app)
    return app


def _no_options() -> None:
    """Plan, run and promote quantized LLM inference."""
