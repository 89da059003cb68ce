"""A local environment as its other tools see it: read its state, start and stop slots, move weights.

machine = LocalMachine.open(root, "local")       # raises NotRunning unless `inferstack up local` has run
machine.start_slot("green", config)              # config: a RuntimeConfig object; ports and identity are this machine's
machine.wait_ready("green", seconds=60)
machine.set_weights({"blue": 0, "green": 100})   # returns when Envoy serves them
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferstack.environment import Environment, load_environment
from inferstack.local import gateway, http, programs, slots
from inferstack.local.errors import LocalError, NotRunning
from inferstack.local.gateway import Ports
from inferstack.local.keys import read_key
from inferstack.local.layout import Layout, locked, read_json, write_json
from inferstack.local.parts import last_lines, read_part, start_part, stop_part
from inferstack.promotion.weights import Cohort

GATEWAY = "gateway"
"""The name of Envoy's process in records and logs."""
APPLY_SECONDS = 10.0
STOP_MARGIN_SECONDS = 5.0


@dataclass(frozen=True)
class SlotState:
    """One look at a slot. `config` is the runtime configuration it was last started with."""

    slot: str
    url: str
    metrics_url: str
    config: Mapping[str, Any]
    alive: bool
    ready: bool
    draining: bool
    reason: str | None
    generation: int
    model_digest: str | None
    in_flight: int


class LocalMachine:
    """Handle on the running environment `layout.name`; holds no state of its own but paths, environment and ports."""

    def __init__(self, layout: Layout, environment: Environment, ports: Ports) -> None:
        self.layout = layout
        self.environment = environment
        self.ports = ports

    @classmethod
    def open(cls, root: Path, name: str) -> "LocalMachine":
        """The environment as it was last brought up; raises NotRunning when it was not, InvalidEnvironment when its file is wrong."""
        machine = cls.at(root, name)
        machine._must_be_up()
        return machine

    @classmethod
    def at(cls, root: Path, name: str) -> "LocalMachine":
        """The environment as it was last brought up, be it down now; raises NotRunning when it never was."""
        layout = Layout(root, name)
        state = read_json(layout.state)
        if state is None:
            raise NotRunning(name)
        return cls(layout, load_environment(root / "stacks", name), Ports.from_json(state["ports"]))

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def gateway_admin_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway_admin}"

    def slot_url(self, slot: str) -> str:
        return f"http://127.0.0.1:{self.ports.slots[slot]}"

    def slot_metrics_url(self, slot: str) -> str:
        return f"http://127.0.0.1:{self.ports.slot_metrics[slot]}/metrics"

    def api_key(self, *, admin: bool = False) -> str:
        return read_key(self.layout, admin=admin)

    def slot_config(self, slot: str) -> dict[str, Any]:
        """The runtime configuration that the slot was last rendered with; raises NotRunning when it never was."""
        config = read_json(self.layout.slot_config(slot))
        if config is None:
            raise NotRunning(self.layout.name, f"has no slot {slot} yet")
        return dict(config)

    def slot(self, slot: str) -> SlotState:
        """One look at the slot: its process, and what its `/readyz` says."""
        config = self.slot_config(slot)
        part = read_part(self.layout, part_name(slot))
        alive = part is not None and part.alive
        answer: dict[str, Any] = {}
        status = 0
        if alive:
            try:
                status, body = http.get_json(self.ports.slots[slot], "/readyz")
                answer = body if isinstance(body, dict) else {}
            except OSError as error:
                answer = {"reason": f"no answer: {error}"}
        return SlotState(
            slot=slot,
            url=self.slot_url(slot),
            metrics_url=self.slot_metrics_url(slot),
            config=config,
            alive=alive,
            ready=status == 200,
            draining=bool(answer.get("draining")),
            reason=None if status == 200 else answer.get("reason") or ("starting" if alive else "not running"),
            generation=int(answer.get("generation", config["identity"]["generation"])),
            model_digest=answer.get("model_digest"),
            in_flight=int(answer.get("in_flight", 0)),
        )

    def start_slot(self, slot: str, config: Mapping[str, Any] | None = None) -> None:
        """Start the slot (with `config`, else as last rendered) unless it runs already with just that; returns before it is ready.

        `listen`, `metrics` and the identity's environment and slot are set here. A slot that runs with something else is stopped first.
        """
        with locked(self.layout):
            self._must_be_up()
            self.start_slot_unlocked(slot, config)

    def start_slot_unlocked(self, slot: str, config: Mapping[str, Any] | None = None) -> None:
        """`start_slot` for a caller that holds the environment's lock."""
        path = self.layout.slot_config(slot)
        before = read_json(path)
        wanted = self._own(slot, before if config is None else config)
        part = read_part(self.layout, part_name(slot))
        if part is not None and part.alive:
            if before == wanted or (config is None and before["cache"]["url"] == wanted["cache"]["url"]):
                return  # what a monitor's new address changes can wait for the next start
            stop_part(self.layout, part_name(slot), self._grace())
        if before != wanted:
            write_json(path, wanted)
        start_part(self.layout, part_name(slot), [*programs.runtime(), "serve", "--config", str(path)])

    def stop_slot(self, slot: str, grace_seconds: float | None = None) -> bool:
        """SIGTERM, the drain limit (or `grace_seconds`) to finish streams, then SIGKILL; True when it was running."""
        with locked(self.layout):
            return stop_part(self.layout, part_name(slot), self._grace() if grace_seconds is None else grace_seconds)

    def restart_slot(self, slot: str, config: Mapping[str, Any] | None = None) -> None:
        """Stop and start again; returns before it is ready."""
        with locked(self.layout):
            self._must_be_up()
            stop_part(self.layout, part_name(slot), self._grace())
            self.start_slot_unlocked(slot, config)

    def wait_ready(self, slot: str, seconds: float) -> SlotState:
        """The slot once it is ready; raises LocalError with its last log lines when it dies or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.slot(slot)
            if state.ready:
                return state
            if not state.alive:
                raise LocalError(
                    "part_failed",
                    f"slot {slot} ended while starting; its last lines:\n{last_lines(self.layout, part_name(slot))}",
                    path=str(self.layout.log(part_name(slot))),
                    next_step=f"mend the cause and run `inferstack up {self.layout.name}` again",
                )
            if time.monotonic() >= deadline:
                raise LocalError(
                    "not_ready",
                    f"slot {slot} is not ready after {seconds:.0f} s: {state.reason}",
                    path=str(self.layout.log(part_name(slot))),
                    next_step=f"read its log, then run `inferstack up {self.layout.name}` again",
                )
            time.sleep(0.05)

    def weights(self) -> dict[str, int]:
        """The weights of the route file, in percent."""
        return gateway.read_weights(self._route_file())

    def cohort(self) -> Cohort | None:
        """The requests that a header takes to one slot."""
        return gateway.read_cohort(self._route_file())

    def _route_file(self) -> dict[str, Any]:
        document = read_json(self.layout.routes)
        if document is None:
            raise NotRunning(self.layout.name, "has no routes yet")
        return dict(document)

    def set_weights(self, weights: Mapping[str, int], cohort: Cohort | None = None) -> None:
        """Replace the route file by rename and wait until Envoy serves it.

        A slot that gets its first weight must be healthy in Envoy's own eyes before. Raises LocalError when one of the two does not happen.
        """
        before = self.weights()
        for slot, weight in weights.items():
            if (weight > 0 and before.get(slot, 0) == 0) or (cohort is not None and cohort.slot == slot):
                self.wait_healthy(slot)
        document = gateway.routes(weights, self.environment.gateway.timeout_seconds, cohort)
        if read_json(self.layout.routes) != document:
            write_json(self.layout.routes, document, mode=0o600)
        self.wait_routes(document["version_info"])

    def serves_routes(self, version: str) -> bool:
        """Whether Envoy serves the route file of `version` now."""
        try:
            _, dump = http.get_json(self.ports.gateway_admin, "/config_dump?resource=dynamic_route_configs")
        except OSError:
            return False
        return gateway.applied_version(dump or {}) == version

    def wait_routes(self, version: str, seconds: float = APPLY_SECONDS) -> None:
        """Wait until Envoy serves the route file of `version`; raises LocalError when it does not."""
        deadline = time.monotonic() + seconds
        while not self.serves_routes(version):
            if time.monotonic() >= deadline:
                raise LocalError(
                    "gateway_failed",
                    f"the gateway does not serve routes {version} after {seconds:.0f} s",
                    path=str(self.layout.log("gateway")),
                    next_step=f"inferstack up {self.layout.name}",
                )
            time.sleep(0.02)

    def healthy(self, slot: str) -> bool:
        """Whether Envoy's health checks let requests through to the slot now."""
        try:
            _, answer = http.get_json(self.ports.gateway_admin, "/clusters?format=json")
        except OSError:
            return False
        return gateway.cluster_healthy(answer or {}, slot)

    def wait_healthy(self, slot: str, seconds: float = APPLY_SECONDS) -> None:
        """Wait until Envoy's health checks let requests through to the slot; raises LocalError when they do not."""
        deadline = time.monotonic() + seconds
        while not self.healthy(slot):
            if time.monotonic() >= deadline:
                raise LocalError(
                    "unhealthy_slot",
                    f"the gateway finds slot {slot} not healthy after {seconds:.0f} s; its weight stays 0",
                    path=str(self.layout.log(part_name(slot))),
                    next_step=f"inferstack status {self.layout.name}",
                )
            time.sleep(0.02)

    def _own(self, slot: str, config: Mapping[str, Any] | None) -> dict[str, Any]:
        if config is None:
            raise NotRunning(self.layout.name, f"has no slot {slot} yet")
        return slots.on_machine(config, self.layout, slot, self.ports)

    def _grace(self) -> float:
        return self.environment.drain.seconds + STOP_MARGIN_SECONDS

    def _must_be_up(self) -> None:
        state = read_json(self.layout.state)
        if state is None or state["desired"] != "up":
            raise NotRunning(self.layout.name)


def part_name(slot: str) -> str:
    """The name of a slot's process in records and logs."""
    return f"slot-{slot}"
