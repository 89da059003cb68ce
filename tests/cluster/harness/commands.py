"""The commands of `inferstack` on the environment `cluster`, run inside the machine's network as its users run them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from machine import lifecycle
from machine.layout import Machine, project_root

from harness import keys
from harness.slots import ENVIRONMENT

Done = subprocess.CompletedProcess[str]


def command(machine: Machine, *words: str, environment: str = ENVIRONMENT, inside: Sequence[str] | None = None) -> list[str]:
    """`inferstack WORD ENV MORE…` as arguments."""
    program = str(Path(sys.executable).parent / "inferstack")
    return [*(lifecycle.enter(machine) if inside is None else inside), program, words[0], environment, *words[1:]]


def variables(machine: Machine) -> dict[str, str]:
    """What a command needs to reach this machine and to be let in by its slots."""
    return os.environ | {"KUBECONFIG": str(machine.kubeconfig), "INFERSTACK_KEY": keys.KEY}


def project(folder: Path, name: str, changes: Mapping[str, Any]) -> Path:
    """A project of its own in ``folder``: this one's program, and the environment `cluster` with ``changes`` as ``name``."""
    root = folder / "project"
    root.mkdir()
    shutil.copy(project_root() / "Pulumi.yaml", root)
    shutil.copytree(project_root() / "stacks", root / "stacks")
    document = yaml.safe_load((root / "stacks" / f"Pulumi.{ENVIRONMENT}.yaml").read_text())
    _lay(document["config"]["inferstack:environment"], changes)
    (root / "stacks" / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump(document))
    return root


def _lay(settings: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Lay ``changes`` over ``settings``; None takes a key away."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(settings.get(key), dict):
            _lay(settings[key], value)
        elif value is None:
            settings.pop(key, None)
        else:
            settings[key] = value


def run(
    machine: Machine,
    *words: str,
    environment: str = ENVIRONMENT,
    more: Mapping[str, str] | None = None,
    inside: Sequence[str] | None = None,
    seconds: float = 600,
) -> Done:
    """Run one command to its end. ``more``: environment variables; ``inside``: how it enters the machine, by default its network alone."""
    return subprocess.run(
        command(machine, *words, environment=environment, inside=inside),
        env=variables(machine) | dict(more or {}),
        cwd=project_root(),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def run_when_free(machine: Machine, *words: str) -> Done:
    """The same, again until the lease of a killed promoter has run out."""
    until = time.monotonic() + 120
    while (done := run(machine, *words)).returncode == 5 and time.monotonic() < until:
        time.sleep(3)
    return done


def status(machine: Machine) -> Any:
    """What `status --json` says. Raises RuntimeError with its error when it fails."""
    done = run(machine, "status", "--json")
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)
