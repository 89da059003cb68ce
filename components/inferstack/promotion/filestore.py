"""Journal and lease in files, with the semantics that a ConfigMap's resourceVersion has: a write names the version it read, or loses.

Files are replaced by rename under a lock, so neither a kill nor a full disk leaves half of one.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter, ValidationError

from inferstack.promotion import lease as leases
from inferstack.promotion.journal import ADVICE, Journal, JournalUnreadable, first_fault, from_document, to_document
from inferstack.promotion.lease import Lease, LeaseLost
from inferstack.promotion.platform import Conflict, PlatformError, Unavailable
from inferstack.promotion.whole import FULL, RESERVE_BYTES, reserve, write_whole

LOCK_SECONDS = 10.0
"""Longest wait for whoever writes; ending a slot's streams takes longer, and whoever calls asks again."""
LOCK_POLL_SECONDS = 0.02
_LEASE = TypeAdapter(Lease)


class FileStore:
    """`journal.json` and `lease.json` of one environment in one folder, and what both need: one lock."""

    def __init__(self, folder: Path, environment: str) -> None:
        self._environment = environment
        self.journal = folder / "journal.json"
        self.lease = folder / "lease.json"
        self._lock = folder / "promotion.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes either file meanwhile; freed by the kernel when the process dies.

        Raises Unavailable after LOCK_SECONDS: a process that was stopped with the lock in its hands would be waited for without end.
        """
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            lock = self._lock.open("a+", encoding="ascii", errors="replace")
        except OSError as error:
            raise PlatformError(f"{self._lock} cannot be opened: {error.strerror or error}") from None
        with lock:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _locked(lock):
                if time.monotonic() >= deadline:
                    lock.seek(0)
                    holder = lock.read().strip() or "unknown"
                    raise Unavailable(
                        f"process {holder} is changing this environment and holds {self._lock}; where it was stopped, "
                        f"`kill -CONT {holder}` lets it go on and `kill -KILL {holder}` ends it"
                    )
                time.sleep(LOCK_POLL_SECONDS)
            with contextlib.suppress(OSError):  # a full disk: the lock holds without the name of who has it
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
            yield

    def read_journal(self) -> tuple[Journal | None, str]:
        """(None, "") before the first; raises JournalUnreadable."""
        document = self._read(self.journal)
        if document is None:
            return None, ""
        return from_document(document.get("journal"), self._environment, str(self.journal)), _version(self.journal, document)

    def write_journal(self, journal: Journal, expected_version: str, held: Lease | None) -> str:
        """Raises Conflict, or LeaseLost when `held` is no longer the current lease."""
        with self.locked():
            leases.check(self.read_lease(), held) if held else None
            document = self._read(self.journal)
            version = _version(self.journal, document) if document is not None else ""
            if version != expected_version:
                raise Conflict(f"{self.journal} has version {version or 'none'}, expected {expected_version or 'none'}")
            after = str(int(version or 0) + 1)
            summary = {"phase": journal.phase, "active_slot": journal.active, "previous_slot": journal.previous}  # for readers of the file
            self._write(self.journal, {"version": after, **summary, "journal": to_document(journal)})
            return after

    def read_lease(self) -> Lease | None:
        document = self._read(self.lease)
        if document is None:
            return None
        try:
            return _LEASE.validate_python(document)
        except ValidationError as error:
            raise JournalUnreadable(
                f"{self.lease}: {first_fault(error)}; once no other `inferstack` works on this environment it can be deleted"
            ) from None

    def acquire_lease(self, holder: str, now: float, *, holder_gone: bool) -> Lease:
        """Raises LeaseHeld."""
        with self.locked():
            reserve(self.lease.parent)
            lease = leases.acquire(self.read_lease(), holder, now, holder_gone=holder_gone)
            self._write(self.lease, asdict(lease))
            return lease

    def renew_lease(self, held: Lease, now: float) -> Lease:
        """Raises LeaseLost."""
        with self.locked():
            lease = leases.renew(self.read_lease(), held, now)
            self._write(self.lease, asdict(lease))
            return lease

    def release_lease(self, held: Lease) -> None:
        with self.locked():
            current = self.read_lease()
            freed = leases.release(current, held)
            if freed is not None and freed != current:
                self._write(self.lease, asdict(freed))

    def check_lease(self, held: Lease | None) -> None:
        """Raises LeaseLost unless `held` is the current lease. Call it under `locked` to keep it so."""
        if held is None:
            raise LeaseLost(Lease("nobody", 0, 0, 0), self.read_lease())
        leases.check(self.read_lease(), held)

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PlatformError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:  # of the text or of its encoding
            raise JournalUnreadable(f"{path} is not JSON ({error}); {ADVICE}") from None
        if not isinstance(document, dict):
            raise JournalUnreadable(f"{path} is not a JSON object; {ADVICE}")
        return document

    @staticmethod
    def _write(path: Path, document: Any) -> None:
        try:
            write_whole(path, json.dumps(document, sort_keys=True))
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {error.strerror or error}; the former one is whole{_free(error)}") from None


def _free(error: OSError) -> str:
    """What to do about a disk that is full."""
    return f"; free about {RESERVE_BYTES >> 20} MiB there, for instance old logs" if error.errno in FULL else ""


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _version(path: Path, document: dict[str, Any]) -> str:
    version = str(document.get("version", ""))
    if not (version.isascii() and version.isdigit()):
        raise JournalUnreadable(f"{path}: version is {version!r}, expected a whole number; {ADVICE}")
    return version
