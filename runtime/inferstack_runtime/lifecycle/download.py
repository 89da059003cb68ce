"""Files of a remote model on local disk: resumed where a download was cut, verified, in place only when whole."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inferstack_runtime.engines.base import ModelLoadError

_TRIES = 5
_CHUNK = 1024 * 1024
Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch. `name` is relative; `tag` changes when the content does; `size` in bytes where it is known."""

    name: str
    size: int | None
    tag: str | None


class Remote(Protocol):
    """Where files come from. Both methods raise OSError for trouble that may pass and ModelLoadError for what will not."""

    def files(self) -> Sequence[RemoteFile]: ...
    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The file from `offset` on; raises StaleTag when its content is no longer `file.tag`'s, CannotResume for another beginning than 0
        where the source has no other."""
        ...


class StaleTag(Exception):
    """The remote file changed while it was fetched."""


class CannotResume(Exception):
    """The source sends a file from its beginning only."""


def fetch(remote: Remote, folder: Path, report: Report, sleep: Callable[[float], None] = time.sleep) -> list[Path]:
    """Bring every file of `remote` into `folder`; returns their paths. A file that is whole and unchanged is not fetched again.

    Raises ModelLoadError when it does not succeed after five tries, or the disk is full.
    """
    files = _retry(remote.files, sleep, "look up the files")
    total = sum(file.size or 0 for file in files) or 1
    done = 0
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder):
            for file in files:
                path = _inside(folder, file.name)
                before = done
                _fetch_one(remote, file, path, lambda size, before=before: report("downloading", (before + size) / total), sleep)  # type: ignore[misc]
                done += file.size or 0
                paths.append(path)
    except OSError as error:
        raise ModelLoadError(f"{folder}: cannot write: {error.strerror or error}") from None
    return paths


def _fetch_one(remote: Remote, file: RemoteFile, path: Path, progress: Callable[[int], None], sleep: Callable[[float], None]) -> None:
    note, partial = path.with_name(path.name + ".tag"), path.with_name(path.name + ".part")
    described = json.dumps([file.tag, file.size])
    same = file.tag is not None and note.exists() and note.read_text() == described
    if path.exists() and same and (file.size is None or path.stat().st_size == file.size):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not same:
        partial.unlink(missing_ok=True)
        note.write_text(described)

    def attempt() -> None:
        try:
            with partial.open("ab") as out:
                if file.size is not None and out.tell() > file.size:
                    out.seek(0)
                    out.truncate()
                offset = out.tell()
                for chunk in remote.read(file, offset):
                    out.write(chunk)
                    offset += len(chunk)
                    progress(offset)
        except StaleTag:
            partial.unlink(missing_ok=True)
            raise ModelLoadError(f"{file.name}: changed at its source while it was downloaded; load again") from None
        except CannotResume:
            partial.unlink(missing_ok=True)
            raise RemoteTrouble(f"{file.name}: its source does not resume; begun anew") from None
        if file.size is not None and offset != file.size:
            if offset > file.size:
                partial.unlink(missing_ok=True)
            raise ConnectionError(f"{file.name}: got {offset} of {file.size} bytes")

    _retry(attempt, sleep, f"download {file.name}")
    partial.replace(path)


def _retry(work: Callable[[], object], sleep: Callable[[float], None], what: str) -> "Sequence[RemoteFile]":
    """Try five times with growing pauses; what is not the network's fault is not tried again."""
    for turn in range(_TRIES):
        try:
            return work()  # type: ignore[return-value]
        except (ConnectionError, TimeoutError, RemoteTrouble) as error:
            if turn == _TRIES - 1:
                raise ModelLoadError(f"cannot {what}, tried {_TRIES} times: {error}") from None
            sleep(min(0.5 * 2**turn, 8.0))
    raise AssertionError("unreachable")


class RemoteTrouble(Exception):
    """The source failed in a way that may pass."""


def verify(path: Path, digest: str) -> None:
    """Raise ModelLoadError, and remove the file, unless its content has `digest` (`sha256:…`)."""
    with path.open("rb") as handle:
        actual = "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    if actual != digest:
        path.unlink()
        raise ModelLoadError(f"{path.name}: digest is {actual}, the configuration expects {digest}; the download was removed")


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelLoadError(f"{name!r}: a file name that leaves its folder")
    return path


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Replicas of one node share the folder; one downloads, the others wait and find it whole."""
    import fcntl

    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
