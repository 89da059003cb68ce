"""Promotion on one machine: slots are processes, the route is Envoy's watched file, journal and lease are files beside them.

What a slot was rendered from stands in `slots/SLOT.spec.json` with the fingerprint of the configuration that came of it: a configuration
that somebody else changed is seen as drift and never taken for the spec's.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from inferstack.environment import SlotName
from inferstack.local.errors import LocalError
from inferstack.local.keys import read_promotion_key
from inferstack.local.layout import read_json, write_json
from inferstack.local.machine import GATEWAY, LocalMachine, SlotState, part_name
from inferstack.local.parts import last_lines, read_part
from inferstack.local.slots import runtime_config
from inferstack.platforms.agreement import agree
from inferstack.platforms.kept import Kept
from inferstack.platforms.pairs import compare
from inferstack.platforms.slot_client import SlotClient, exercise, seen_through
from inferstack.promotion.filestore import FileStore
from inferstack.promotion.measure import Snapshot
from inferstack.promotion.platform import (
    Agreement,
    Conflict,
    Exercise,
    Health,
    Observation,
    PlatformError,
    Seen,
    SlotFailed,
    SlotObservation,
    Unavailable,
)
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Weights

_Value = TypeVar("_Value")


class LocalPlatform(Kept):
    """The slots of one machine."""

    def __init__(self, machine: LocalMachine) -> None:
        self._machine = machine
        self._store = FileStore(machine.layout.directory, machine.layout.name)
        super().__init__(self._store)
        self._seen: Weights | None = None

    # ---- looking

    def observe(self) -> Observation:
        return _orderly(self._observe)

    def _observe(self) -> Observation:
        machine = self._machine
        self._seen = seen = self._weights()
        slots = {slot: self._slot(slot) for slot in SlotName}
        drift = tuple(
            f"the configuration of {slot} was changed since it was rendered"
            for slot in SlotName
            if seen.reach(slot)
            and (record := self._record(slot)) is not None
            and record["config"] != _fingerprint(machine.slot_config(slot))
        )
        return Observation(self.now(), seen, slots, frozenset(SlotName), drift)

    def _weights(self) -> Weights:
        raw = self._machine.weights()
        return Weights(raw["blue"], raw["green"], self._machine.cohort())

    def _slot(self, slot: SlotName) -> SlotObservation:
        machine = self._machine
        state = machine.slot(slot)
        asked = read_part(machine.layout, part_name(slot)) is not None
        ready = state.ready and machine.healthy(slot)
        failure = None
        if asked and not state.alive:
            failure = f"its process ended; last lines:\n{last_lines(machine.layout, part_name(slot))}"
        elif asked and (gateway := read_part(machine.layout, GATEWAY)) is not None and not gateway.alive:
            failure = f"the gateway has ended; `inferstack recover {machine.layout.name}` starts it again"
        return SlotObservation(
            replicas=int(asked),
            ready=int(ready),
            spec=self._spec(slot, state),
            in_flight=state.in_flight if state.alive else 0,
            failure=failure,
            waiting=None if ready else state.reason or "the gateway does not find it healthy yet",
        )

    def _record(self, slot: SlotName) -> Mapping[str, Any] | None:
        record = read_json(self._machine.layout.slot_config(slot).with_suffix(".spec.json"))
        return record if isinstance(record, Mapping) and {"spec", "config"} <= set(record) else None

    def _spec(self, slot: SlotName, state: SlotState) -> SlotSpec | None:
        record = self._record(slot)
        if record is not None:
            return SlotSpec.from_json(record["spec"]) if record["config"] == _fingerprint(state.config) else None
        base = SlotSpec.from_environment(self._machine.environment, int(state.config["identity"]["generation"]))
        return base if _fingerprint(self._config(slot, base)) == _fingerprint(state.config) else None

    # ---- changing

    @contextmanager
    def _fenced(self) -> Any:
        """Nobody can take the lease while the change is made."""
        with self._store.locked():
            self._store.check_lease(self._held)
            yield

    def render(self, slot: SlotName, spec: SlotSpec) -> None:
        def work() -> None:
            config = self._config(slot, spec)
            with self._fenced():
                path = self._machine.layout.slot_config(slot).with_suffix(".spec.json")
                write_json(path, {"spec": spec.to_json(), "config": _fingerprint(config)})
                self._machine.start_slot(slot, config)

        try:
            _orderly(work)
        except ModuleNotFoundError as error:
            raise SlotFailed(f"{slot} cannot start: {error}") from None

    def _config(self, slot: SlotName, spec: SlotSpec) -> dict[str, Any]:
        machine = self._machine
        environment = machine.environment.model_copy(update={"models": spec.models, "engine": spec.engine})
        return runtime_config(machine.layout, environment, slot, machine.ports, generation=spec.generation)

    def set_weights(self, weights: Weights) -> None:
        def work() -> None:
            with self._fenced():
                now = self._weights()
                if self._seen is not None and now != self._seen:
                    raise Conflict(f"the route file was changed to {now} since it was looked at")
                self._machine.set_weights({"blue": weights.blue, "green": weights.green}, weights.cohort)

        _orderly(work)

    def scale(self, slot: SlotName, replicas: int) -> None:
        """One process or none. A stopped slot takes the live one's configuration, lest the next `up` meets a version that failed."""

        def work() -> None:
            machine = self._machine
            with self._fenced():
                if replicas > 0:
                    machine.start_slot(slot)
                    return
                machine.stop_slot(slot)
                live = machine.slot_config(slot.other)
                own = {**live, **{key: machine.slot_config(slot)[key] for key in ("listen", "metrics")}}
                own["identity"] = {**live["identity"], "slot": str(slot)}
                write_json(machine.layout.slot_config(slot), own)
                path = machine.layout.slot_config(slot).with_suffix(".spec.json")
                record = self._record(slot.other)
                if record is None:
                    path.unlink(missing_ok=True)
                else:
                    write_json(path, {"spec": record["spec"], "config": _fingerprint(own)})

        _orderly(work)

    def set_floor(self, slot: SlotName, floor: int) -> None:
        """Nothing scales on one machine."""

    # ---- measuring

    def verify(self, slot: SlotName) -> Health:
        with self._client(slot) as client:
            health: Health = client.verify()
        return health

    def probe(self, n: int, header: tuple[str, str] | None = None) -> tuple[Seen, ...]:
        with httpx.Client(base_url=self._machine.gateway_url, trust_env=False) as client:
            return seen_through(client, n, read_promotion_key(self._machine.layout), header)

    def warm(self, slot: SlotName) -> None:
        with self._client(slot) as client:
            for model in self._models(slot):
                timing = client.generate(model)
                if timing.error:
                    raise SlotFailed(f"{slot} did not answer its first request: {model}: {timing.error}")

    def exercise(self, slot: SlotName, n: int, *, repeated: bool = False) -> Exercise:
        with self._client(slot) as client:
            return exercise([client], n, repeated=repeated)

    def compare(self, slot: SlotName, against: SlotName, n: int) -> tuple[Exercise, Exercise]:
        with self._client(slot) as one, self._client(against) as other:
            return compare([one], [other], n)

    def agreement(self, slot: SlotName, against: SlotName) -> Agreement | None:
        with self._client(slot) as one, self._client(against) as other:
            return agree([one], [other])

    def metrics(self, slot: SlotName) -> Snapshot | None:
        with self._client(slot) as client:
            found = client.counters()
        return None if found is None else {f"{slot}-0": found}

    @contextmanager
    def _client(self, slot: SlotName) -> Any:
        machine = self._machine
        with httpx.Client(base_url=machine.slot_url(slot), trust_env=False) as client:
            yield SlotClient(client, machine.slot_metrics_url(slot), self._models(slot), read_promotion_key(machine.layout))

    def _models(self, slot: SlotName) -> list[str]:
        return [model["name"] for model in self._machine.slot_config(slot)["models"]]


def _fingerprint(config: Mapping[str, Any]) -> str:
    """Of what a promotion decides about: ports and addresses may change with every `up`."""
    own = {key: config.get(key) for key in ("models", "engine")} | {"generation": config["identity"]["generation"]}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def _orderly(work: Callable[[], _Value]) -> _Value:
    """Run `work`; faults of this machine become the protocol's, those that another try may mend Unavailable."""
    try:
        return work()
    except LocalError as error:
        kind = Unavailable if error.code in ("busy", "unhealthy_slot", "gateway_failed") else PlatformError
        raise kind(error.message + (f" (next: {error.next_step})" if error.next_step else "")) from None
    except OSError as error:
        raise Unavailable(f"{error}") from None
