"""The semantic tier: a question that means the same as an earlier one, of the same tenant in the same conversation, gets its answer.

Off unless a route enables it. Only greedy answers that ended by themselves, without tools, grammar or log-probabilities; everything
before the last user message must be equal by hash, only that message is fuzzy. A hit needs the cosine threshold and every guard of
`guards`. A share of the hits is regenerated and compared; when too many were false the threshold rises, and past 0.99 the tier is off.
"""

import asyncio
import hashlib
import logging
import random
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.api.run import Answer
from inferstack_runtime.caching.answers import pack, unpack
from inferstack_runtime.caching.false_hits import FalseHits
from inferstack_runtime.caching.guards import Traits, refusal, traits
from inferstack_runtime.caching.shared import SharedStore, StoreDown
from inferstack_runtime.config import SemanticConfig
from inferstack_runtime.metrics import Metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

_PREFIX = "inferstack-semantic:"
_CHANNEL = "inferstack-semantic"
_JITTER = 0.1
_MOST_NAMESPACES = 1000
_SAME_ANSWER = 0.9
_log = logging.getLogger(__name__)
Embed = Callable[[list[str]], Awaitable["Vector"]]


@dataclass(frozen=True, slots=True)
class Question:
    """A request as this tier sees it: the fuzzy text, and the name of everything that must be equal."""

    text: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A question that was answered."""

    text: str
    traits: Traits
    answer: Answer
    expires: float


@dataclass
class _Namespace:
    entries: "OrderedDict[str, Entry]" = field(default_factory=OrderedDict)
    rows: list["Vector"] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    matrix: "Vector | None" = None
    loaded: bool = False

    def put(self, name: str, entry: Entry, vector: "Vector") -> None:
        self.drop(name)
        self.entries[name] = entry
        self.names.append(name)
        self.rows.append(vector)
        self.matrix = None

    def drop(self, name: str) -> None:
        if self.entries.pop(name, None) is not None:
            position = self.names.index(name)
            del self.names[position], self.rows[position]
            self.matrix = None


def namespace_of(exact_key: bytes, before: bytes) -> str:
    """Name of the group of questions that share everything but the last user message.

    `exact_key`: the exact tier's key of the request without its prompt (tenant, model, quantization, generation, parameters);
    `before`: system prompt and earlier turns.
    """
    return hashlib.sha256(exact_key + hashlib.sha256(before).digest()).hexdigest()


class SemanticCache:
    """Belongs to the event loop; vectors are computed in a thread."""

    def __init__(
        self,
        config: SemanticConfig,
        embed: Embed,
        store: SharedStore | None,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._embed = embed
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._chance = chance
        self._namespaces: OrderedDict[str, _Namespace] = OrderedDict()
        self._count = 0
        self._models: dict[str, FalseHits] = {}
        self._lookups = metrics[catalogue.CACHE_LOOKUPS]

    def threshold(self, model: str) -> float:
        """Cosine that a hit needs now; above 1 the tier is off for this model."""
        return self._verdicts(model).threshold

    async def find(self, question: Question, model: str) -> Entry | None:
        """An entry that may answer the question. Never raises; trouble is a miss."""
        try:
            found = await self._find(question, model)
        except Exception:
            _log.exception("semantic look-up failed")
            found = None
        self._lookups.labels("semantic", "hit" if found else "miss").inc()
        return found

    async def _find(self, question: Question, model: str) -> Entry | None:
        threshold = self.threshold(model)
        asked = traits(question.text)
        if threshold > 1 or asked.denied:
            return None
        space = await self._load(question.namespace)
        if not space.entries:
            return None
        import numpy as np

        vector = (await self._embed([question.text]))[0]
        if space.matrix is None:
            space.matrix = np.stack(space.rows)
        scores = space.matrix @ vector
        now = self._clock()
        for position in np.argsort(-scores)[:5]:
            if scores[position] < threshold:
                return None
            name = space.names[position]
            entry = space.entries[name]
            if entry.expires < now:
                self._drop(space, name)
                return None
            if refusal(asked, entry.traits) is None:
                return entry
        return None

    async def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer, here and on the shared server."""
        known = traits(question.text)
        if known.denied or any(delta.finish_reason not in (None, "stop") for delta in answer.deltas):
            return
        try:
            vector = (await self._embed([question.text]))[0]
            life = self._config.ttl_seconds * (1 + _JITTER * (2 * self._chance() - 1))
            name = hashlib.sha256(question.text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            space = await self._load(question.namespace)
            self._add(space, name, Entry(question.text, known, answer, self._clock() + life), vector)
            if self._store is not None:
                await self._share(question.namespace, name, question.text, answer, vector, int(life) or 1)
        except StoreDown:
            pass
        except Exception:
            _log.exception("an answer could not be kept")

    def wants_check(self) -> bool:
        """Whether this hit is one of the share that is regenerated."""
        return self._chance() < self._config.verify

    async def judge(self, model: str, question: Question, entry: Entry, fresh: Answer) -> bool:
        """Compare a hit with what the model says now; whether it was right. Counts it, and moves the threshold."""
        old, new = _text(entry.answer), _text(fresh)
        same = old.split() == new.split()
        if not same:
            vectors = await self._embed([old or " ", new or " "])
            same = float(vectors[0] @ vectors[1]) >= _SAME_ANSWER and traits(old).numbers == traits(new).numbers
        verdicts = self._verdicts(model)
        verdicts.add(false=not same)
        self._metrics[catalogue.CACHE_VERIFIED].labels(model).inc()
        if not same:
            self._metrics[catalogue.CACHE_FALSE_HITS].labels(model).inc()
            space = self._namespaces.get(question.namespace)
            if space is not None:
                for name in [name for name, kept in space.entries.items() if kept is entry]:
                    self._drop(space, name)
        self._show(model)
        return same

    async def listen(self) -> None:
        """For ever: take over what other replicas keep. The shared server may come and go."""
        while self._store is not None:
            try:
                await self._store.open()
                await self._store.subscribe(_CHANNEL, self._on_message)
            except asyncio.CancelledError:
                raise
            except Exception:
                await asyncio.sleep(1)

    async def _on_message(self, data: bytes) -> None:
        namespace, _, name = data.decode("ascii", "replace").partition(" ")
        space = self._namespaces.get(namespace)
        if space is None or not space.loaded or name in space.entries or self._store is None:
            return
        packed = await self._store.call("cache", lambda client: client.hget(_PREFIX + namespace, name))
        self._take(space, name, packed)

    async def _load(self, namespace: str) -> _Namespace:
        """The namespace, filled from the shared server by its first use."""
        space = self._namespaces.get(namespace)
        if space is None:
            space = self._namespaces[namespace] = _Namespace()
            while len(self._namespaces) > _MOST_NAMESPACES:
                _, gone = self._namespaces.popitem(last=False)
                self._count -= len(gone.entries)
        self._namespaces.move_to_end(namespace)
        if not space.loaded:
            space.loaded = True
            if self._store is not None:
                try:
                    kept = await self._store.call("cache", lambda client: client.hgetall(_PREFIX + namespace))
                except StoreDown:
                    space.loaded = False
                else:
                    for name, packed in kept.items():
                        self._take(space, name.decode(), packed)
        return space

    async def _share(self, namespace: str, name: str, text: str, answer: Answer, vector: "Vector", life: int) -> None:
        head = orjson.dumps({"t": text, "e": time.time() + life})
        packed = struct.pack("<II", len(head), vector.nbytes) + head + vector.tobytes() + pack(answer)

        async def write(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            pipeline.hset(_PREFIX + namespace, name, packed)
            pipeline.expire(_PREFIX + namespace, 2 * self._config.ttl_seconds)
            pipeline.publish(_CHANNEL, f"{namespace} {name}")
            await pipeline.execute()

        assert self._store is not None
        await self._store.call("cache", write)

    def _take(self, space: _Namespace, name: str, packed: bytes | None) -> None:
        """Add an entry of the shared server; anything damaged or ended is left out."""
        import numpy as np

        if not packed or name in space.entries:
            return
        try:
            head_size, vector_size = struct.unpack_from("<II", packed)
            head = orjson.loads(packed[8 : 8 + head_size])
            vector = np.frombuffer(packed[8 + head_size : 8 + head_size + vector_size], np.float32)
            answer = unpack(packed[8 + head_size + vector_size :])
            left = float(head["e"]) - time.time()
            text = str(head["t"])
        except (struct.error, ValueError, KeyError, TypeError):
            return
        if answer is None or left <= 0 or (space.rows and vector.shape != space.rows[0].shape):
            return
        self._add(space, name, Entry(text, traits(text), answer, self._clock() + left), vector)

    def _add(self, space: _Namespace, name: str, entry: Entry, vector: "Vector") -> None:
        before = len(space.entries)
        space.put(name, entry, vector)
        self._count += len(space.entries) - before
        while self._count > self._config.entries:
            oldest = next(kept for kept in self._namespaces.values() if kept.entries)
            self._drop(oldest, next(iter(oldest.entries)))
        self._metrics[catalogue.CACHE_ENTRIES].labels("semantic").set(self._count)

    def _drop(self, space: _Namespace, name: str) -> None:
        space.drop(name)
        self._count -= 1

    def _verdicts(self, model: str) -> FalseHits:
        verdicts = self._models.get(model)
        if verdicts is None:
            verdicts = self._models[model] = FalseHits(self._config.threshold, self._config.max_false_ratio)
            self._show(model)
        return verdicts

    def _show(self, model: str) -> None:
        verdicts = self._models[model]
        self._metrics[catalogue.CACHE_THRESHOLD].labels(model).set(verdicts.threshold)
        low, high = verdicts.interval()
        for bound, value in (("estimate", verdicts.ratio), ("low", low), ("high", high)):
            self._metrics[catalogue.CACHE_FALSE_RATIO].labels(model, bound).set(value)


def _text(answer: Answer) -> str:
    return "".join(delta.text for delta in answer.deltas)
