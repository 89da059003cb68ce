"""Journal and lease in files, with the semantics that a ConfigMap's resourceVersion has: a write names the version it read, or loses.

Files are replaced by rename under a lock, so neither a kill nor a full disk leaves half of one.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inferstack.promotion import lease as leases
from inferstack.promotion.journal import Journal, JournalUnreadable, from_document, to_document
from inferstack.promotion.lease import Lease, LeaseLost
from inferstack.promotion.platform import Conflict, Unavailable


class FileStore:
    """`journal.json` and `lease.json` in one folder, and what both need: one lock."""

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "journal.json"
        self.lease = folder / "lease.json"
        self._lock = folder / "promotion.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes either file meanwhile; freed by the kernel when the process dies."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read_journal(self) -> tuple[Journal | None, str]:
        """(None, "") before the first; raises JournalUnreadable."""
        document = self._read(self.journal)
        if document is None:
            return None, ""
        if "version" not in document:
            raise JournalUnreadable(
                f"{self.journal} has no version; restore it from a backup, or delete it to begin anew from the live weights"
            )
        return from_document(document.get("journal"), str(self.journal)), str(document["version"])

    def write_journal(self, journal: Journal, expected_version: str, held: Lease | None) -> str:
        """Raises Conflict, or LeaseLost when `held` is no longer the current lease."""
        with self.locked():
            leases.check(self.read_lease(), held) if held else None
            document = self._read(self.journal)
            version = str(document["version"]) if document else ""
            if version != expected_version:
                raise Conflict(f"{self.journal} has version {version or 'none'}, expected {expected_version or 'none'}")
            after = str(int(version or 0) + 1)
            summary = {"phase": journal.phase, "active_slot": journal.active, "previous_slot": journal.previous}  # for readers of the file
            self._write(self.journal, {"version": after, **summary, "journal": to_document(journal)})
            return after

    def read_lease(self) -> Lease | None:
        document = self._read(self.lease)
        return None if document is None else Lease(**document)

    def acquire_lease(self, holder: str, now: float, *, holder_gone: bool) -> Lease:
        """Raises LeaseHeld."""
        with self.locked():
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
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            document = json.loads(text)
        except ValueError as error:
            raise JournalUnreadable(f"{path} is not JSON ({error}); restore it from a backup") from None
        if not isinstance(document, dict):
            raise JournalUnreadable(f"{path} is not a JSON object; restore it from a backup")
        return document

    @staticmethod
    def _write(path: Path, document: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with open(temporary, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                json.dump(document, file, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise Unavailable(f"{path} cannot be written: {error.strerror or error}; the former one is whole") from None
