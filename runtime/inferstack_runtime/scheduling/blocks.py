"""Blocks of the KV cache: who holds them, which may be reused, which goes first when room is needed.

A full block is known by the hash of its tokens chained to the block before it, and begins with the tenant, so that no prefix is ever
found by another tenant. A hit also compares the tokens. Blocks nobody holds stay findable until their room is needed, least recently
used first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from inferstack_runtime.kernels import BLOCK_POSITIONS


@dataclass(slots=True)
class _Content:
    key: bytes
    tokens: tuple[int, ...]


class BlockPool:
    """`count` blocks of `BLOCK_POSITIONS` positions each, numbered from 0."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._holders = [0] * count
        self._content: list[_Content | None] = [None] * count
        self._by_key: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that can be taken now: never used or held by nobody."""
        return len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """Blocks that running sequences hold."""
        return self.count - self.available

    def take(self) -> int | None:
        """A block for one holder, or None when all are held."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        else:
            return None
        self._holders[block] = 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one hold of each; the last block of a sequence becomes the first to be reused."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if self._content[block] is None:
                    self._free.append(block)
                else:
                    self._idle[block] = None

    def find(self, root: bytes, tokens: Sequence[int]) -> list[int]:
        """The longest known chain of full blocks that `tokens` begin with, now held once more."""
        found: list[int] = []
        key = root
        for start in range(0, len(tokens) - BLOCK_POSITIONS + 1, BLOCK_POSITIONS):
            part = tuple(tokens[start : start + BLOCK_POSITIONS])
            key = chain(key, part)
            block = self._by_key.get(key)
            content = None if block is None else self._content[block]
            if block is None or content is None or content.tokens != part:
                break
            self._holders[block] += 1
            self._idle.pop(block, None)
            found.append(block)
        return found

    def publish(self, block: int, key: bytes, tokens: tuple[int, ...]) -> None:
        """Make a full block findable; does nothing if an equal one already is."""
        if key not in self._by_key and self._content[block] is None:
            self._by_key[key] = block
            self._content[block] = _Content(key, tokens)

    def clear(self) -> None:
        """Forget every prefix; blocks in use stay with their holders."""
        for block in [*self._idle]:
            self._idle.pop(block)
            self._free.append(block)
        for block in self._by_key.values():
            self._content[block] = None
        self._by_key.clear()

    def _forget(self, block: int) -> None:
        content = self._content[block]
        if content is not None:
            del self._by_key[content.key]
            self._content[block] = None


def tenant_root(tenant: str) -> bytes:
    """Where the chains of a tenant begin."""
    return blake2b(tenant.encode(), digest_size=16, person=b"inferstack-kv").digest()


def chain(parent: bytes, tokens: tuple[int, ...]) -> bytes:
    """Key of a full block that follows the block `parent`."""
    return blake2b(b"".join(token.to_bytes(4, "little") for token in tokens), digest_size=16, key=parent).digest()
