"""Where a local environment keeps its files, and how they are written: whole or not at all."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferstack.local.errors import LocalError
from inferstack.promotion.whole import write_whole

LOCK_SECONDS = 10.0
"""How long a command waits for another one that changes the same environment."""


@dataclass(frozen=True)
class Layout:
    """Paths of the environment `name` under the project folder `root`."""

    root: Path
    name: str

    @property
    def directory(self) -> Path:
        return self.root / ".inferstack" / self.name

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def parts(self) -> Path:
        """One record per process, see `inferstack.local.parts`."""
        return self.directory / "parts"

    @property
    def state(self) -> Path:
        return self.directory / "state.json"

    @property
    def envoy(self) -> Path:
        return self.directory / "envoy"

    @property
    def routes(self) -> Path:
        """The watched route file; only ever replaced by rename."""
        return self.envoy / "routes.json"

    @property
    def keys(self) -> Path:
        """Hashed API keys, read by the runtime."""
        return self.directory / "keys.json"

    @property
    def api_key(self) -> Path:
        """The key that `chat` and `load` send; only its owner can read it."""
        return self.directory / "api-key"

    @property
    def admin_key(self) -> Path:
        return self.directory / "admin-key"

    @property
    def promotion_key(self) -> Path:
        return self.directory / "promotion-key"

    @property
    def journal(self) -> Path:
        """The promotion journal."""
        return self.directory / "journal.json"

    @property
    def rules(self) -> Path:
        """Recording and alert rules of Prometheus."""
        return self.directory / "rules.json"

    def slot_config(self, slot: str) -> Path:
        """The runtime configuration of a slot."""
        return self.directory / "slots" / f"{slot}.json"

    def batches(self, slot: str) -> Path:
        """Files and batch jobs of a slot."""
        return self.directory / "slots" / f"{slot}-batches.sqlite"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def make(self) -> None:
        """Make the folders, closed to other users: logs and keys lie in them."""
        for folder in (self.directory, self.logs, self.parts, self.envoy, self.directory / "slots"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def remember(layout: Layout) -> None:
    """Note where the environment was last brought up, so that commands find it from any folder; without a writable home they do not."""
    with contextlib.suppress(OSError, RuntimeError):  # the latter: no home at all
        write_whole(_note(layout.name), f"{layout.root}\n")


def remembered(name: str) -> Path | None:
    """The project from which an environment of this name was last brought up; None when there is none or it is gone."""
    try:
        root = Path(_note(name).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError, RuntimeError):
        return None
    return root if Layout(root, name).state.is_file() else None


def _note(name: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "inferstack" / "projects" / name


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n", mode)


def read_json(path: Path) -> Any:
    """The parsed file, or None when there is none. Raises LocalError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        whose = "it belongs to the user who brought the environment up: run the command as that one"
        raise LocalError(
            "unreadable_state",
            f"{path} cannot be read: {error.strerror or error}",
            path=str(path),
            next_step=whose if isinstance(error, PermissionError) else "mend that and try again",
        ) from None
    except ValueError as error:
        raise LocalError("damaged_state", f"{path} is not JSON: {error}", path=str(path), next_step="delete the file") from None


@contextlib.contextmanager
def locked(layout: Layout, wait_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the environment against other commands; the kernel lets go when the holder dies, however it dies."""
    layout.make()
    path = layout.directory / "lock"
    with open(path, "a+", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                    raise LocalError(
                        "busy",
                        f"another command (process {holder}) is changing environment {layout.name}",
                        next_step="wait until it has ended and try again",
                    ) from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
