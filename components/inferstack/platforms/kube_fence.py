"""Writes to a cluster that only the holder of the lease can make, also when it was paused between asking and writing.

An API server knows nothing of leases, but it refuses a write that names a resourceVersion the object no longer has. So every write names
the version that was read *before* the lease was asked for, and whoever takes a lease over that was not given back first stamps every
object that promotions write, which changes its version. A promoter that slept in between then meets a conflict, asks for the lease
again, and learns that it is lost.
"""

from collections.abc import Callable, Iterable

from inferstack.platforms.kube_api import KubeApi, Object
from inferstack.platforms.kube_state import KubeState
from inferstack.promotion.lease import Lease
from inferstack.promotion.platform import Conflict

FENCE_ANNOTATION = "inferstack.dev/promoter"
"""Generation and holder of the last lease that was taken over."""
TRIES = 5
"""Of a write whose object somebody else changed meanwhile: controllers write the status of theirs."""


class Fence:
    """The writes of one promoter. `held`: the lease that it was given."""

    def __init__(self, api: KubeApi, state: KubeState, held: Callable[[], Lease | None]) -> None:
        self._api, self._state, self._held = api, state, held

    def check(self) -> None:
        """Raises LeaseLost."""
        self._state.check_lease(self._held())

    def apply(self, path: str, body: Object) -> Object:
        """Server-side apply. Raises LeaseLost, Conflict when the object changes again and again."""
        return self._write(path, lambda version: self._api.apply(path, _at(version, body)))

    def merge(self, path: str, change: Object, subresource: str = "") -> Object:
        """JSON merge patch of an object that is there, or of its subresource. Raises like `apply`."""
        return self._write(path, lambda version: self._api.merge(path + subresource, _at(version, change)))

    def stamp(self, paths: Iterable[str]) -> None:
        """Change the version of every object, so that nothing decided under an earlier lease is written any more."""
        left = list(paths)
        for _ in range(TRIES):
            found = {path: there for path in left if (there := self._api.get(path)) is not None}
            self.check()
            left = [path for path, there in found.items() if not self._stamped(path, there)]
            if not left:
                return
        raise Conflict(f"{', '.join(left)} changed {TRIES} times while the lease was taken over")

    def _stamped(self, path: str, there: Object) -> bool:
        held = self._held()
        assert held is not None
        note = {"metadata": {"annotations": {FENCE_ANNOTATION: f"{held.generation} {held.holder}"}}}
        try:
            self._api.merge(path, _at(there["metadata"]["resourceVersion"], note))
        except Conflict:
            return False
        return True

    def _write(self, path: str, write: Callable[[str], Object]) -> Object:
        for attempt in range(TRIES):
            found = self._api.get(path)
            self.check()
            try:
                return write(found["metadata"]["resourceVersion"] if found else "")
            except Conflict:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError


def _at(version: str, body: Object) -> Object:
    """`body`, to be written only over this version; an object that does not exist has none."""
    return body | {"metadata": {**body.get("metadata", {}), "resourceVersion": version}} if version else body
