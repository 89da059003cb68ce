"""The autoscaler process: registrations by request (E8), a look at every interval, and what follows from it.

code = run(config)                               # 0 orderly, 2 bad key file, 5 cannot bind
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inferstack_runtime.access.authenticate import Authenticator, require
from inferstack_runtime.access.keys import InvalidKeys, KeyFile
from inferstack_runtime.api.app import SERVER_FAULT, error_response, send_response
from inferstack_runtime.api.fields import Field, Fields
from inferstack_runtime.api.http import Disconnected, Receive, Request, Response, Scope, Send, json_response, parse_object
from inferstack_runtime.autoscaler import metrics as catalogue
from inferstack_runtime.autoscaler.actuate import CannotScale, scale_of
from inferstack_runtime.autoscaler.config import AutoscalerConfig
from inferstack_runtime.autoscaler.observe import Look, look_at, sample_of
from inferstack_runtime.autoscaler.registry import POLICIES, Registration, Scaled, registration_of, scaled
from inferstack_runtime.autoscaler.signals import replica_cap
from inferstack_runtime.errors import ApiError, invalid, not_found
from inferstack_runtime.metrics import TEXT, Metrics
from inferstack_runtime.protocol import bounded_protocol
from inferstack_runtime.server import CannotStart, http_server, open_socket

_log = logging.getLogger(__name__)
_REGISTER, _MANUAL = "/api/v1/scaling/register", "/api/v1/scaling/manual"
OPERATIONS = {_REGISTER: "POST", _MANUAL: "POST", "/api/v1/scaling/status": "GET"}
"""Path to method; all of them need the admin scope."""
_COUNT = {"minimum": 0, "maximum": 10_000}
REGISTER = Fields(
    (
        Field("model_key", "string", "A target of the configuration.", required=True),
        Field("scaling_policy", "string", "How the number is decided.", "queue", choices=POLICIES),
        Field("min_instances", "integer", "Fewest replicas.", 1, **_COUNT),  # type: ignore[arg-type]
        Field("max_instances", "integer", "Most replicas; the budget may allow fewer.", 10, minimum=1, maximum=10_000),
    )
)
MANUAL = Fields(
    (
        Field("model_key", "string", "A registered target.", required=True),
        Field("scaling_type", "string", "Only `horizontal`: a change of resources is a promotion.", "horizontal"),
        Field("target_instances", "integer", "Replicas, within the registered bounds.", required=True, **_COUNT),  # type: ignore[arg-type]
    )
)


class Autoscaler:
    """The registrations of one process and what it does about them. Belongs to the event loop."""

    def __init__(self, config: AutoscalerConfig) -> None:
        self._config = config
        self._scales = {key: scale_of(target.scale) for key, target in config.targets.items()}
        self._looks: dict[str, dict[str, Look]] = {}
        self._replicas: dict[str, int] = {}
        self._busy = asyncio.Lock()
        self.slots: dict[str, Scaled] = {}
        self.looked = False
        self.metrics = Metrics(catalogue.CATALOGUE)
        for raw in self._stored():
            registration = Registration(**raw)
            if registration.model_key in config.targets:
                self.slots[registration.model_key] = self._scaled(registration)

    def _stored(self) -> list[dict[str, Any]]:
        if self._config.state_file is None or not Path(self._config.state_file).exists():
            return []
        stored: list[dict[str, Any]] = json.loads(Path(self._config.state_file).read_text())
        return stored

    def _store(self) -> None:
        if self._config.state_file is not None:
            file = Path(self._config.state_file)
            new = file.with_name(f"{file.name}.new")
            new.write_text(json.dumps([asdict(slot.registration) for slot in self.slots.values()]))
            new.replace(file)

    def _scaled(self, registration: Registration) -> Scaled:
        price, budget = self._config.targets[registration.model_key].replica.hourly_usd, self._config.budget_hourly_usd
        cap = replica_cap(budget, price) if budget is not None and price is not None else None
        return scaled(registration, self._config.policy, cap, self.slots)

    def _left_for(self, key: str) -> int | None:
        """Most replicas that the budget pays for beside what the other targets run; None without a budget."""
        price, budget = self._config.targets[key].replica.hourly_usd, self._config.budget_hourly_usd
        if budget is None or price is None:
            return None
        prices = ((other, target.replica.hourly_usd or 0.0) for other, target in self._config.targets.items() if other != key)
        return replica_cap(budget - sum(self._replicas.get(other, 0) * each for other, each in prices), price)

    async def register(self, registration: Registration) -> Scaled:
        """Take a registration, or change it; the same again changes nothing. Raises ApiError 400, 404 or 502."""
        if registration.model_key not in self._config.targets:
            raise not_found(f"There is no target {registration.model_key[:200]!r}.", "model_key")
        if registration.min_instances > registration.max_instances:
            raise invalid(
                f"`min_instances` {registration.min_instances} is above `max_instances` {registration.max_instances}.", "min_instances"
            )
        key = registration.model_key
        async with self._busy:
            known = self.slots.get(key)
            if known is None or known.registration != registration:
                try:
                    await self._scales[key].register(registration.entries())
                except CannotScale as error:
                    raise _cannot_scale(error) from None
                self.slots[key] = self._scaled(registration)
                self._store()
            return self.slots[key]

    async def _refresh(self, key: str) -> None:
        """Take over what others have registered where registrations are kept. Raises CannotScale."""
        if not self._scales[key].registers:
            return
        entries, known = await self._scales[key].registration(), self.slots.get(key)
        try:
            found = registration_of(key, entries)
        except ValueError as error:
            raise CannotScale(f"the registration of {key}: {error}") from None
        if found is None:
            self.slots.pop(key, None)
        elif known is None or known.registration != found:
            self.slots[key] = self._scaled(found)

    async def manual(self, key: str, wanted: int) -> tuple[int | None, bool]:
        """Set a number of replicas now; the number before, and whether this is a dry run. Raises ApiError 400, 404 or 502."""
        slot = self.slots.get(key)
        if slot is None:
            raise not_found(f"{key[:200]!r} is not registered.", "model_key")
        if slot.bounds.keep(wanted) != wanted:
            raise invalid(f"`target_instances` is {wanted}: expected {slot.bounds.fewest} to {slot.bounds.highest}.", "target_instances")
        async with self._busy:
            try:
                before = await self._scales[key].read()
                await self._scales[key].write(wanted)
            except CannotScale as error:
                raise _cannot_scale(error) from None
            slot.changed = time.time()
        _log.info("scaled by request", extra={"fields": {"model_key": key, "from": before, "to": wanted, "dry_run": self.dry_run(key)}})
        return before, self.dry_run(key)

    def dry_run(self, key: str) -> bool:
        return self._scales[key].dry_run

    async def look(self) -> None:
        """One round: look at every registered slot, decide, and do it."""
        async with self._busy:
            for key in self._config.targets:
                try:
                    await self._refresh(key)
                    if key in self.slots:
                        await self._round(key, self.slots[key])
                except CannotScale as error:
                    self._count(key, "failed")
                    _log.error("cannot scale", extra={"fields": {"model_key": key, "error": str(error)}})
            self.looked = True

    async def _round(self, key: str, slot: Scaled) -> None:
        """Raises CannotScale."""
        now, target, scale = time.time(), self._config.targets[key], self._scales[key]
        looks = await look_at(target.metrics, now)
        wanted = await scale.read()
        replicas = self._replicas[key] = len(looks) if wanted is None else wanted
        if wanted == 0 < slot.bounds.fewest:
            slot.rest(now)
            self._show(key, 0, 0, "stopped")
            return
        bounds = slot.bounds.beside(replicas, self._left_for(key))
        self.metrics[catalogue.MOST].labels(key).set(bounds.highest)
        decision = slot.decide(sample_of(self._looks.get(key, {}), looks, replicas, target.replica, now), bounds)
        self._looks[key] = looks
        if decision.target_replicas == replicas:
            self._show(key, replicas, replicas, "missing" if slot.history[-1].missing else "held")
            return
        await scale.write(decision.target_replicas)
        self._replicas[key] = decision.target_replicas
        self._show(key, replicas, decision.target_replicas, "scaled")
        slot.changed = now
        _log.info("scaled", extra={"fields": {"model_key": key, "from": replicas, "dry_run": scale.dry_run, **asdict(decision)}})

    def _show(self, key: str, replicas: int, wanted: int, result: str) -> None:
        self.metrics[catalogue.REPLICAS].labels(key).set(replicas)
        self.metrics[catalogue.WANTED].labels(key).set(wanted)
        self._count(key, result)

    def _count(self, key: str, result: str) -> None:
        self.metrics[catalogue.LOOKS].labels(key, result).inc()

    async def go_on(self) -> None:
        """A round at every interval, for ever."""
        while True:
            try:
                await self.look()
            except Exception:
                _log.exception("a round failed")
            await asyncio.sleep(self._config.interval_seconds)


class ScalingApp:
    """`/api/v1/scaling/…`, `/metrics`, `/livez` and `/readyz` (200 once every target was looked at)."""

    def __init__(self, autoscaler: Autoscaler, keys: Authenticator) -> None:
        self._autoscaler = autoscaler
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ApiError as error:
            response = error_response(error)
        except Disconnected:
            return
        except Exception:
            _log.exception("request failed")
            response = error_response(SERVER_FAULT)
        await send_response(response, [], send)

    async def _answer(self, request: Request) -> Response:
        if request.path == "/livez":
            return json_response({"status": "ok"})
        if request.path == "/metrics":
            return Response(200, self._autoscaler.metrics.render(), content_type=TEXT)
        if request.path == "/readyz":
            ready = self._autoscaler.looked
            return json_response({"ready": ready}, status=200 if ready else 503)
        method = OPERATIONS.get(request.path)
        if method is None:
            raise ApiError(404, f"There is no {request.path[:200]}; there are {', '.join(OPERATIONS)}.", code="not_found")
        if request.method != method:
            raise ApiError(405, f"{request.path} takes {method}.", code="method_not_allowed", headers={"allow": method})
        require(await self._keys.authenticate(request.header(b"authorization")), "admin")
        if request.path == _REGISTER:
            return await self._register(request)
        return await self._manual(request) if request.path == _MANUAL else self._status()

    async def _register(self, request: Request) -> Response:
        slot = await self._autoscaler.register(Registration(**REGISTER.read(await _body(request))))
        return json_response(slot.to_json() | {"dry_run": self._autoscaler.dry_run(slot.registration.model_key)})

    async def _manual(self, request: Request) -> Response:
        values = MANUAL.read(await _body(request))
        if values["scaling_type"] != "horizontal":
            raise invalid(
                "`scaling_type` must be `horizontal`: other resources or another GPU are a promotion (`inferstack promote`).",
                "scaling_type",
            )
        before, dry_run = await self._autoscaler.manual(values["model_key"], values["target_instances"])
        return json_response({**values, "previous_instances": before, "dry_run": dry_run})

    def _status(self) -> Response:
        slots = [slot.to_json() | {"dry_run": self._autoscaler.dry_run(key)} for key, slot in self._autoscaler.slots.items()]
        return json_response({"registrations": slots})


def _cannot_scale(error: CannotScale) -> ApiError:
    return ApiError(502, str(error), code="cannot_scale")


async def _body(request: Request) -> dict[str, Any]:
    return parse_object(await request.body(2**16, 10))


def run(config: AutoscalerConfig) -> int:
    """Serve and scale until told to stop."""
    try:
        keys = Authenticator(KeyFile(Path(config.keys_file), config.tiers), config.tiers)
    except (OSError, InvalidKeys) as error:
        _log.error("keys_file cannot be used", extra={"fields": {"error": str(error)}})
        return 2
    try:
        with contextlib.closing(open_socket(config.listen, "listen")) as listen:
            return asyncio.run(_serve(config, keys, listen))
    except CannotStart as error:
        _log.error(str(error))
        return 5


async def _serve(config: AutoscalerConfig, keys: Authenticator, listen: socket.socket) -> int:
    autoscaler = Autoscaler(config)
    server = http_server(ScalingApp(autoscaler, keys), bounded_protocol(10, 256, []), 620)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve([listen]))
    while not server.started:
        await asyncio.sleep(0)
    print(json.dumps({"event": "listening", "port": listen.getsockname()[1]}), flush=True)
    background = [asyncio.create_task(autoscaler.go_on()), asyncio.create_task(_watch(keys))]
    await stop.wait()
    server.should_exit = True
    for task in background:
        task.cancel()
    await asyncio.gather(serving, *background, return_exceptions=True)
    return 0


async def _watch(keys: Authenticator) -> None:
    while True:
        keys.refresh()
        await asyncio.sleep(1)
