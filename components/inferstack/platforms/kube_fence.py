"""Writes to a cluster that only the holder of the lease can make, also when it was paused between asking and writing.

An API server knows nothing of leases, but it refuses a write that names a resourceVersion the object no longer has. So every write names
the version that was read *before* the lease was asked for, and whoever takes a lease over that was not given back first stamps every
object that promotions write, which changes its version. A promoter that slept in between then meets a conflict, asks for the lease
again, and learns that it is lost.

An object that does not exist has no version to name. Who makes one looks at its lease once more afterwards, and takes back what it made
without one; whose it is stands in an annotation, so that nothing goes that the next promoter has written over meanwhile.
"""

import contextlib
from collections.abc import Callable, Iterable

from inferstack.platforms.kube_api import MANAGER, KubeApi, Object
from inferstack.platforms.kube_state import KubeState
from inferstack.promotion.lease import Lease, LeaseLost
from inferstack.promotion.platform import Conflict, PlatformError

FENCE_ANNOTATION = "inferstack.dev/promoter"
"""Generation and holder of the lease that the object was made or taken over under."""
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
        """Server-side apply. Raises LeaseLost, Conflict when the object changes again and again.

        An object that nobody has made yet is created, never applied: of two who find it missing only one makes it, and the other looks
        again, and at its lease.
        """
        return self._write(
            path, lambda there: self._api.apply(path, _at(there, self._taken(there, body))) if there else self._make(path, body)
        )

    def _make(self, path: str, body: Object) -> Object:
        """Create with the name of who did, then have its fields owned like applied ones, so that a later apply can take them back."""
        self._api.create(path.rpartition("/")[0], self._named(body))
        try:
            return self._write(path, lambda there: self._api.merge(path, _at(there, _as_applied(there))))
        except LeaseLost:
            with contextlib.suppress(PlatformError):
                self._take_back(path)
            raise

    def _take_back(self, path: str) -> None:
        """Delete what was made without a lease, unless another promoter has put its name on it."""
        for _ in range(TRIES):
            there = self._api.get(path)
            if there is None or _name_on(there) != self._name():
                return
            with contextlib.suppress(Conflict):  # a controller wrote its status
                self._api.delete(path, there["metadata"]["resourceVersion"])
                return

    def _taken(self, there: Object, body: Object) -> Object:
        """`body`, with this promoter's name where another's stands on the object."""
        return body if _name_on(there) in (None, self._name()) else self._named(body)

    def _named(self, body: Object) -> Object:
        annotations = body["metadata"].get("annotations", {}) | {FENCE_ANNOTATION: self._name()}
        return body | {"metadata": body["metadata"] | {"annotations": annotations}}

    def _name(self) -> str:
        held = self._held()
        assert held is not None
        return f"{held.generation} {held.holder}"

    def merge(self, path: str, change: Object, subresource: str = "") -> Object:
        """JSON merge patch of an object that is there, or of its subresource. Raises like `apply`."""
        return self._write(path, lambda there: self._api.merge(path + subresource, _at(there, change)))

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
        try:
            self._api.merge(path, _at(there, self._named({"metadata": {}})))
        except Conflict:
            return False
        return True

    def _write(self, path: str, write: Callable[[Object | None], Object]) -> Object:
        for attempt in range(TRIES):
            there = self._api.get(path)
            self.check()
            try:
                return write(there)
            except Conflict:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError


def _at(there: Object | None, body: Object) -> Object:
    """`body`, to be written only over the version that is there."""
    version = {} if there is None else {"resourceVersion": there["metadata"]["resourceVersion"]}
    return body | {"metadata": {**body.get("metadata", {}), **version}}


def _name_on(there: Object) -> str | None:
    """Whose the object is, by the annotation; None where nobody has put a name on it."""
    name: str | None = there["metadata"].get("annotations", {}).get(FENCE_ANNOTATION)
    return name


def _as_applied(there: Object | None) -> Object:
    """The object's owners, promotion as one that applied: what it owns by another operation no later apply would take back."""
    owners = (there or {}).get("metadata", {}).get("managedFields", ())
    return {"metadata": {"managedFields": [one | ({"operation": "Apply"} if one["manager"] == MANAGER else {}) for one in owners]}}
