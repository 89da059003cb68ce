"""Requests as they were read before: one that comes again needs no validation, no template and no tokenizer.

Most answers of the exact cache go to requests that are equal to the byte. Kept are only those whose answer may be cached, per tenant.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from inferstack_runtime.api.http import Request
from inferstack_runtime.api.parameters import Generate
from inferstack_runtime.engines.base import LoadedModel

_MOST_ENTRIES = 1024
_MOST_BYTES = 16 * 1024
"""Longest body that is kept."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read and tokenized for one loaded model. Nobody changes `values`."""

    values: dict[str, Any]
    model: LoadedModel
    generates: list[Generate]
    more: Any = None
    """What else the route made of it."""


class Prepared:
    """The requests of one route that were asked last. Belongs to the event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, bytes], Asked] = OrderedDict()

    def find(self, tenant: str, body: bytes) -> Asked | None:
        """The request with this body; its model may have been replaced since."""
        found = self._kept.get((tenant, body))
        if found is not None:
            self._kept.move_to_end((tenant, body))
        return found

    def keep(self, request: Request, body: bytes, asked: Asked) -> Asked:
        """Remember what was read of a request if it and its answer may be kept; what was read."""
        if b"no-store" in request.cache_control:
            return asked
        tenant = request.caller.tenant
        if len(body) <= _MOST_BYTES and all(generate.repeatable for generate in asked.generates):
            self._kept[tenant, body] = asked
            if len(self._kept) > _MOST_ENTRIES:
                self._kept.popitem(last=False)
        return asked
