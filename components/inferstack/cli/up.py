"""Bring an environment up: on this machine, with a first answer shown, or on a Kubernetes that is there already."""

import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from inferstack.cli.output import EnvironmentName, Project, console, project_root
from inferstack.environment import Platform, load_environment

if TYPE_CHECKING:
    from inferstack.local.machine import LocalMachine
    from inferstack.local.progress import Event

QUESTION = "Say hello and tell me in one sentence what you can do."
ANSWER_TOKENS = 48
FIRST_TOKEN_SECONDS = 120.0
_MARKS = {"done": "[green]✓[/]", "skipped": "[dim]-[/]", "failed": "[red]✗[/]"}


def register(app: typer.Typer) -> None:
    """Add the command `up`."""
    app.command("up")(up)


def up(
    name: EnvironmentName,
    project: Project = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay attached; Ctrl-C takes the environment down.")] = False,
    since: Annotated[float | None, typer.Option("--since", help="Unix time to count from; by default this command's start.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="On a cluster: do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and event instead of text.")] = False,
) -> None:
    """Start the environment, or mend one that runs: gateway, cache, both slots. Leaves it running.

    On this machine (`platform: local`), or on the cluster of the kubeconfig (`platform: kubernetes`); a cloud's own comes with `pulumi up`.
    """
    root = project_root(project)
    environment = load_environment(root / "stacks", name)
    if environment.platform is Platform.KUBERNETES:
        from inferstack.cli import _cluster

        _cluster.up(root, name, environment, yes=yes, as_json=as_json)
        return

    from inferstack.local import up as local

    started = since if since is not None else _process_start()
    show = _Show(started, as_json)
    machine = local.up(root, name, show.event, answer=show.answer)
    show.ready(machine)
    if foreground:
        _stay(root, machine, show)


class _Show:
    """What the command writes: lines for people (with a running clock on a terminal), or one JSON object per event."""

    def __init__(self, started: float, as_json: bool) -> None:
        self.started, self.as_json = started, as_json
        self.first_token: float | None = None
        self.out = console()
        self.clock: Progress | None = None

    def event(self, event: "Event") -> None:
        if self.as_json:
            _line(event.to_json())
            return
        if event.status == "started":
            self._start_clock(event.phase)
            return
        self._stop_clock()
        detail = f"  {event.detail}" if event.detail else ""
        self.out.print(f"{_MARKS[event.status]} {event.phase:<12} {event.seconds:6.1f} s", end="")
        self.out.print(detail, style="dim", markup=False, soft_wrap=True)

    def answer(self, machine: "LocalMachine") -> None:
        """Stream a first answer through the gateway."""
        from inferstack.local.chat import stream_chat
        from inferstack.local.errors import LocalError

        model = machine.environment.models[0].name
        key = machine.api_key()
        question = [{"role": "user", "content": QUESTION}]
        if not self.as_json:
            self.out.print(f"\n> {QUESTION}", style="bold", markup=False)
        text, limited = "", None
        pieces = stream_chat(machine.ports.gateway, key, model, question, max_tokens=ANSWER_TOKENS, timeout=FIRST_TOKEN_SECONDS)
        try:
            for piece in pieces:
                if self.first_token is None:
                    self.first_token = time.time() - self.started
                text += piece
                if not self.as_json:
                    self.out.print(piece, end="", markup=False, soft_wrap=True)
                    self.out.file.flush()
        except LocalError as error:
            if error.code != "limited":
                raise
            limited = error.message  # the environment is up, its own limits hold this question back
        if self.as_json:
            first = _rounded(self.first_token)
            _line({"event": "answer", "question": QUESTION, "answer": text, "seconds_to_first_token": first, "limited": limited})
        else:
            self.out.print(limited or "\n", markup=False)
            if self.first_token is not None:
                self.out.print(f"first token after {self.first_token:.1f} s", style="bold")

    def ready(self, machine: "LocalMachine") -> None:
        base, key, model = f"{machine.gateway_url}/v1", machine.api_key(), machine.environment.models[0].name
        seconds = time.time() - self.started
        if self.as_json:
            first = _rounded(self.first_token)
            name = machine.layout.name
            ready = {"event": "ready", "environment": name, "base_url": base, "api_key": key, "model": model}
            _line({**ready, "seconds_to_first_token": first, "seconds": round(seconds, 3)})
            return
        body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]})
        name = machine.layout.name
        lines = [
            f"environment {name} is ready after {seconds:.1f} s",
            "",
            f"  base URL  {base}",
            f"  API key   {key}",
            f"  console   {machine.gateway_url}/console (`inferstack console {name}` prints it with its key)",
            "",
            f"  curl -N {base}/chat/completions -H {shlex.quote(f'Authorization: Bearer {key}')} -H 'Content-Type: application/json' \\",
            f"    -d {shlex.quote(body)}",
            "",
            "  from openai import OpenAI",
            f"  client = OpenAI(base_url={base!r}, api_key={key!r})",
            f"  chat = client.chat.completions.create(model={model!r}, messages=[{{'role': 'user', 'content': 'Hello!'}}], stream=True)",
            "  for chunk in chat:",
            "      print(chunk.choices[0].delta.content or '', end='')",
            "",
            f"  inferstack chat {name} QUESTION · inferstack status {name} · inferstack promote {name} · inferstack down {name}",
        ]
        for line in lines:
            self.out.print(line, markup=False, soft_wrap=True)

    def say(self, text: str, **data: str) -> None:
        if self.as_json:
            _line({"event": "message", "message": text, **data})
        else:
            self.out.print(text, markup=False, soft_wrap=True)

    def _start_clock(self, phase: str) -> None:
        if self.out.is_terminal:
            self.clock = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=self.out, transient=True)
            self.clock.start()
            self.clock.add_task(phase, total=None)

    def _stop_clock(self) -> None:
        if self.clock is not None:
            self.clock.stop()
            self.clock = None


def _stay(root: Path, machine: "LocalMachine", show: _Show) -> None:
    """Wait for Ctrl-C or SIGTERM, say when a part ends, then take everything down."""
    from inferstack.local.down import down
    from inferstack.local.parts import last_lines, read_parts

    stop = threading.Event()
    with _on_signals(stop.set):
        name = machine.layout.name
        show.say(f"attached; Ctrl-C takes {name} down")
        dead: set[str] = set()
        while not stop.wait(1.0):
            for part in read_parts(machine.layout).values():
                if part.token not in dead and part.pid is not None and not part.alive:
                    dead.add(part.token)
                    show.say(
                        f"{part.name} has ended; `inferstack up {name}` starts it again\n{last_lines(machine.layout, part.name)}",
                        part=part.name,
                    )
        down(root, name, show.event)


@contextlib.contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: act()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _process_start() -> float:
    """Unix time at which this process began, from /proc; now where there is none."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    except OSError:
        return time.time()
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _line(data: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
