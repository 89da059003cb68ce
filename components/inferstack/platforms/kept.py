"""What every platform keeps alike: the promotion's journal and lease, and the clock of this machine."""

import time
from contextlib import suppress
from typing import Protocol

from inferstack.platforms import holder as holders
from inferstack.promotion.journal import Journal
from inferstack.promotion.lease import Lease
from inferstack.promotion.platform import Conflict, Unavailable


class Store(Protocol):
    """Where journal and lease are kept; both are written by compare-and-swap (files, objects of a cluster)."""

    def read_journal(self) -> tuple[Journal | None, str]: ...
    def write_journal(self, journal: Journal, expected_version: str, held: Lease | None) -> str: ...
    def read_lease(self) -> Lease | None: ...
    def acquire_lease(self, holder: str, now: float, *, holder_gone: bool) -> Lease: ...
    def renew_lease(self, held: Lease, now: float) -> Lease: ...
    def release_lease(self, held: Lease) -> None: ...


class Kept:
    """Journal, lease and clock of promotion's Platform over a Store. Holds the lease that it was given."""

    def __init__(self, store: Store) -> None:
        self._kept = store
        self._held: Lease | None = None

    def now(self) -> float:
        return time.time()

    def elapsed(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    def read_journal(self) -> tuple[Journal | None, str]:
        return self._kept.read_journal()

    def write_journal(self, journal: Journal, expected_version: str) -> str:
        return self._kept.write_journal(journal, expected_version, self._held)

    def acquire_lease(self, holder: str) -> Lease:
        current = self._kept.read_lease()
        gone = current is not None and holders.is_gone(current.holder)
        try:
            self._held = self._kept.acquire_lease(holder, self.now(), holder_gone=gone)
        except Conflict as error:
            raise Unavailable(f"somebody else asked for the lease at the same moment: {error}") from None
        return self._held

    def renew_lease(self) -> Lease:
        assert self._held is not None
        with suppress(Conflict):
            self._held = self._kept.renew_lease(self._held, self.now())
        return self._held

    def release_lease(self) -> None:
        if self._held is not None:
            self._kept.release_lease(self._held)
            self._held = None

    def read_lease(self) -> Lease | None:
        return self._kept.read_lease()
