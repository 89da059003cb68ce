"""Files that are replaced by rename, so that a reader or a kill never meets half of one; and room that is kept for them on a full disk."""

import contextlib
import errno
import os
from pathlib import Path

RESERVE = "room-when-the-disk-is-full"
RESERVE_BYTES = 2**20
"""A rollback writes journal and lease about ten times and the routes once, each a few kB in place of one as large."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def reserve(folder: Path) -> None:
    """Keep room for what is written into `folder` and the folders in it; a disk that is full already has none to keep."""
    path = folder / RESERVE
    with contextlib.suppress(OSError):
        if path.is_file():
            return
        try:
            path.write_bytes(bytes(RESERVE_BYTES))
        except OSError:
            path.unlink()


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` by a file with `text`. On a full disk the room that was reserved for it is used up. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path, text, mode)
    except OSError as error:
        if error.errno not in FULL or not _give_up_reserve(path):
            raise
        _write(path, text, mode)


def _give_up_reserve(path: Path) -> bool:
    for folder in (path.parent, path.parent.parent):
        with contextlib.suppress(OSError):
            (folder / RESERVE).unlink()
            return True
    return False


def _write(path: Path, text: str, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(temporary, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
