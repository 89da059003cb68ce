"""One run of a Pulumi program for one stack: what it registers, exports and logs."""

import asyncio
import contextvars
import gc
import json
import runpy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pulumi
import yaml
from grpc import Channel
from pulumi.runtime import config as runtime_config
from pulumi.runtime.proto.resource_pb2_grpc import ResourceMonitorStub
from pulumi.runtime.settings import Settings, configure
from pulumi.runtime.stack import run_in_stack

from inferstack.environment import FINDINGS_KEY, read_config
from inferstack.program.monitor import Engine, Recorder, Registration, serving


class ProgramFailed(Exception):
    """The program ended with an error; the message holds what it logged last."""


@contextmanager
def _without_collection() -> Iterator[None]:
    """Reading the clouds' SDKs makes very many objects that all stay: to look for garbage among them is a third of a plan's time.

    What is there after the first run is set aside for good, so that the last collection, when the process ends, does not look at it either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _set_aside()
        if enabled:
            gc.enable()


@cache
def _set_aside() -> None:
    """Once: to ask how much was set aside walks over all of it."""
    gc.freeze()


@dataclass(frozen=True)
class Run:
    """What one run registered, in the order of registration; the stack itself is not among the resources."""

    resources: tuple[Registration, ...]
    outputs: Mapping[str, Any]
    messages: tuple[tuple[str, str], ...]

    def parent_name(self, resource: Registration) -> str | None:
        """Name of the resource's parent, or None directly under the stack."""
        return next((other.name for other in self.resources if other.urn == resource.parent), None)


def run_stack(
    root: Path,
    stack: str,
    *,
    config: Mapping[str, Any] | None = None,
    preview: bool = False,
    functions: Mapping[str, Mapping[str, Any]] | None = None,
    references: Mapping[str, Mapping[str, Any]] | None = None,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> Run:
    """Run the program of the project at `root` as stack `stack`.

    `config` replaces the configuration of the stack's file; `functions` and `references` answer provider functions and stack
    references, `known` gives what a provider said of a resource.
    Raises ProgramFailed, or the program's own error.
    """
    project = yaml.safe_load((root / "Pulumi.yaml").read_text(encoding="utf-8"))
    folder = root / project.get("main", ".")
    file = root / project.get("stackConfigDir", ".") / f"Pulumi.{stack}.yaml"
    if config is None:
        config = read_config(file)
    config = {**config, FINDINGS_KEY: "shown"}
    entry = folder if folder.is_file() else folder / "__main__.py"

    def program() -> None:
        sys.path.insert(0, str(entry.parent))
        try:
            runpy.run_path(str(entry), run_name="__main__")
        finally:
            sys.path.remove(str(entry.parent))

    with _without_collection():
        return run_function(
            program,
            project=project["name"],
            stack=stack,
            config=config,
            preview=preview,
            functions=functions,
            references=references,
            known=known,
        )


def run_function(
    program: Callable[[], None],
    *,
    project: str = "project",
    stack: str = "stack",
    config: Mapping[str, Any] | None = None,
    preview: bool = False,
    functions: Mapping[str, Mapping[str, Any]] | None = None,
    references: Mapping[str, Mapping[str, Any]] | None = None,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> Run:
    """Run `program` inside a stack; see `run_stack`. Runs in a thread and context of its own, so that nothing of it stays behind."""
    recorder = Recorder(stack, project, preview, functions or {}, references or {}, known or {})
    failure: list[BaseException] = []

    def body(channel: Channel) -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # the first error is raised below; what fails after it adds nothing
        asyncio.set_event_loop(loop)
        try:
            monitor = ResourceMonitorStub(channel)
            configure(Settings(project, stack, monitor=monitor, engine=Engine(recorder), dry_run=preview, organization="organization"))
            runtime_config.set_all_config({_full_key(project, key): _text(value) for key, value in (config or {}).items()}, [])
            loop.run_until_complete(run_in_stack(program))
        except BaseException as error:
            failure.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()

    with serving(recorder) as channel:
        thread = threading.Thread(target=contextvars.Context().run, args=(body, channel), name="pulumi-program")
        thread.start()
        thread.join()
    if failure:
        raise _explain(failure[0], recorder)
    stack_urn = next((item.urn for item in recorder.registrations if item.type == "pulumi:pulumi:Stack"), "")
    resources = tuple(item for item in recorder.registrations if item.type != "pulumi:pulumi:Stack")
    return Run(resources, recorder.outputs.get(stack_urn, {}), tuple(recorder.messages))


def _explain(error: BaseException, recorder: Recorder) -> BaseException:
    if isinstance(error, pulumi.RunError):
        errors = [text for severity, text in recorder.messages if severity == "error"]
        return ProgramFailed("\n".join([*errors, str(error)]).strip())
    return error


def _full_key(project: str, key: str) -> str:
    return key if ":" in key else f"{project}:{key}"


def _text(value: Any) -> str:
    """A configuration value as the engine hands it over: objects and numbers as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
