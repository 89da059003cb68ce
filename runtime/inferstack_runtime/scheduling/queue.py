"""Requests that wait: by priority, then fair between tenants, then in order of arrival."""

from collections import deque
from collections.abc import Iterator

from inferstack_runtime.scheduling.sequence import Sequence


class WaitingQueue:
    """Within a priority the tenant that was served the fewest tokens is next; a tenant that was idle starts level with the least served."""

    def __init__(self) -> None:
        self._lanes: dict[int, dict[str, deque[Sequence]]] = {}
        self._served: dict[str, float] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for tenants in self._lanes.values():
            for lane in tenants.values():
                yield from lane

    def push(self, sequence: Sequence, *, front: bool = False) -> None:
        """Add at the end of its lane; `front` puts a preempted sequence back where it was."""
        tenant = sequence.request.tenant
        if tenant not in self._served:
            self._served[tenant] = min(self._served.values(), default=0.0)
        lane = self._lanes.setdefault(sequence.request.priority, {}).setdefault(tenant, deque())
        lane.appendleft(sequence) if front else lane.append(sequence)
        self._length += 1

    def peek(self) -> Sequence | None:
        """The next sequence to serve."""
        for priority in sorted(self._lanes):
            heads = [lane[0] for lane in self._lanes[priority].values() if lane]
            if heads:
                return min(heads, key=lambda head: (self._served[head.request.tenant], head.arrival))
        return None

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""
        priority, tenant = sequence.request.priority, sequence.request.tenant
        lane = self._lanes[priority][tenant]
        lane.remove(sequence)
        self._length -= 1
        if not lane:
            del self._lanes[priority][tenant]
            if not self._lanes[priority]:
                del self._lanes[priority]

    def charge(self, tenant: str, tokens: int) -> None:
        """Count work done for a tenant."""
        self._served[tenant] = self._served.get(tenant, 0.0) + tokens

    def forget_idle(self, active: set[str]) -> None:
        """Drop the accounts of tenants that neither wait nor run, so that their number stays bounded."""
        waiting = {tenant for tenants in self._lanes.values() for tenant in tenants}
        for tenant in [name for name in self._served if name not in active and name not in waiting]:
            del self._served[tenant]
