"""Bring a local environment up: whatever is missing is started, whatever runs as it should stays.

Every step can be repeated: killed anywhere, the next `up` goes on and `down` ends all of it.
"""

import errno
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inferstack.environment import Environment, InvalidEnvironment, Platform, Problem, SlotName, load_environment
from inferstack.local import cache, gateway, http, monitoring, ports, programs, slots
from inferstack.local.errors import LocalError
from inferstack.local.gateway import Ports
from inferstack.local.keys import ensure_keys
from inferstack.local.layout import Layout, locked, read_json, remember, write_json
from inferstack.local.machine import GATEWAY, LocalMachine, part_name
from inferstack.local.parts import last_lines, read_part, start_part, stop_part
from inferstack.local.progress import Report, phase

CACHE = "cache"
READY_SECONDS = 30.0
LEAST_FREE_BYTES = 64 * 2**20
"""Room for logs and state; the weight cache may need more and says so itself."""
STOP_SECONDS = 5.0


def up(root: Path, name: str, report: Report, answer: Callable[[LocalMachine], None] | None = None) -> LocalMachine:
    """Bring environment `name` of the project `root` up and return its handle when both slots are ready.

    `answer` is called once the first slot takes requests, while the other one starts.
    Raises InvalidEnvironment, ModuleNotFoundError (the extra `local` is not installed) or LocalError.
    """
    layout = Layout(root, name)
    try:
        with locked(layout):
            return _up(layout, report, answer)
    except OSError as error:
        raise _disk_error(error, layout) or error from None


def _up(layout: Layout, report: Report, answer: Callable[[LocalMachine], None] | None) -> LocalMachine:
    name = layout.name
    with phase("check", report) as checked:
        environment = load_local(layout.root, name)
        commands = {GATEWAY: programs.envoy(), "runtime": programs.runtime()}
        if cache.wanted(environment.cache):
            commands[CACHE] = programs.valkey()
        if (free := shutil.disk_usage(layout.directory).free) < LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"only {free // 2**20} MiB free", str(layout.directory))
        before = read_json(layout.state)
        chosen = _choose_ports(layout, environment, before)
        machine = LocalMachine(layout, environment, chosen)
        fresh = _is_fresh(layout, environment, before)
        ensure_keys(layout, environment.access.tiers)
        digest = environment_digest(environment) if fresh else before["digest"]
        write_json(layout.state, {"environment": name, "desired": "up", "digest": digest, "ports": chosen.to_json()})
        remember(layout)
        if running := sorted(part for part in _part_names(environment) if _alive(layout, part)):
            checked.detail = f"already running: {', '.join(running)}"
            if digest != environment_digest(environment):
                checked.detail += "; the environment file has changed since: `down` and `up` start from it anew"
    if CACHE in commands and chosen.cache is not None:
        with phase(CACHE, report) as current:
            _start_cache(machine, commands[CACHE], chosen.cache)
            current.detail = f"127.0.0.1:{chosen.cache}"
    if fresh:
        _render(machine)
    weights = machine.weights()
    first = max(SlotName, key=lambda slot: weights[slot])
    with phase(f"slot {first}", report) as current:
        machine.start_slot_unlocked(first)
        current.detail = _describe(machine, first)
    with phase(GATEWAY, report) as current:
        _start_gateway(machine, commands[GATEWAY])
        machine.wait_healthy(first, READY_SECONDS)
        current.detail = machine.gateway_url
    machine.start_slot_unlocked(first.other)
    if answer is not None:
        answer(machine)
    with phase(f"slot {first.other}", report) as current:
        current.detail = _describe(machine, first.other)
        machine.wait_healthy(first.other, READY_SECONDS)
    with phase(monitoring.KEEPER, report) as current:
        _start_keeper(machine)
        current.detail = f"http://127.0.0.1:{chosen.monitors[monitoring.KEEPER]}/metrics"
    for monitor in monitoring.find().values():
        with phase(monitor.name, report) as current:
            if monitor.program is None:
                current.skip(monitor.advice)
            elif trouble := _start_monitor(machine, monitor):
                current.skip(f"left out: {trouble}")
            else:
                current.detail = f"http://127.0.0.1:{chosen.monitors[monitor.name]}"
    return machine


def revive(root: Path, name: str, report: Report) -> None:
    """Start again what carries requests and has ended, as it was last rendered: slots that have weight, the gateway, the cache, the keeper.

    A slot without weight is left alone: that is a promotion's to decide. Raises NotRunning when the environment was taken down.
    """
    layout = Layout(root, name)
    with locked(layout):
        machine = LocalMachine.open(root, name)
        if machine.ports.cache is not None and not _alive(layout, CACHE):
            with phase(CACHE, report):
                _start_cache(machine, programs.valkey(), machine.ports.cache)
        weights, cohort = machine.weights(), machine.cohort()
        dead = [
            slot
            for slot in SlotName
            if (weights[slot] or (cohort is not None and cohort.slot is slot)) and not _alive(layout, part_name(slot))
        ]
        for slot in dead:
            machine.start_slot_unlocked(slot)
        if not _alive(layout, GATEWAY):
            with phase(GATEWAY, report):
                _start_gateway(machine, programs.envoy())
        for slot in dead:
            with phase(f"slot {slot}", report) as current:
                current.detail = _describe(machine, slot)
                machine.wait_healthy(slot, READY_SECONDS)
        if not _alive(layout, monitoring.KEEPER):
            with phase(monitoring.KEEPER, report):
                _start_keeper(machine)


def load_local(root: Path, name: str) -> Environment:
    """The environment, when it is one of this machine; raises InvalidEnvironment."""
    environment = load_environment(root / "stacks", name)
    source = str(root / "stacks" / f"Pulumi.{name}.yaml")
    if environment.platform is not Platform.LOCAL:
        raise InvalidEnvironment(
            source, [Problem("platform", str(environment.platform), "local or kubernetes: a cloud's own comes up with `pulumi up`")]
        )
    if environment.cache.backend not in ("process", "none"):
        raise InvalidEnvironment(
            source, [Problem("cache.backend", environment.cache.backend, "process or none, because platform is local")]
        )
    return environment


def environment_digest(environment: Environment) -> str:
    """What tells an edited environment file from the one that was brought up."""
    return hashlib.sha256(environment.model_dump_json().encode()).hexdigest()


def _choose_ports(layout: Layout, environment: Environment, before: Any) -> Ports:
    """Ports of running parts stay; those of others are kept while they are free. Raises LocalError when the gateway's is taken."""
    old = Ports.from_json(before["ports"]) if before else None
    gateway_runs = _alive(layout, GATEWAY)
    wanted = environment.gateway.port
    if not (gateway_runs and old is not None and old.gateway == wanted):
        ports.require(wanted, "gateway.port")
    taken = {wanted}

    def choose(part: str, previous: int | None) -> int:
        if previous is not None and _alive(layout, part):
            taken.add(previous)
            return previous
        return ports.pick(previous, taken)

    names = [str(slot) for slot in SlotName]
    return Ports(
        gateway=wanted,
        gateway_admin=choose(GATEWAY, old.gateway_admin if old else None),
        cache=choose(CACHE, old.cache if old else None) if cache.wanted(environment.cache) else None,
        slots={slot: choose(part_name(slot), old.slots[slot] if old else None) for slot in names},
        slot_metrics={slot: choose(part_name(slot), old.slot_metrics[slot] if old else None) for slot in names},
        monitors={
            name: choose(name, old.monitors.get(name) if old else None)
            for name in (monitoring.KEEPER, *(name for name, monitor in monitoring.find().items() if monitor.program))
        },
    )


def _is_fresh(layout: Layout, environment: Environment, before: Any) -> bool:
    """Whether slots are rendered from the environment file: at first, and after it was edited while nothing ran.

    Otherwise they come back as they were, with what promotions made of them.
    """
    if before is None or not layout.routes.is_file() or not all(layout.slot_config(slot).is_file() for slot in SlotName):
        return True
    edited = before["digest"] != environment_digest(environment)
    return edited and not any(_alive(layout, part_name(slot)) for slot in SlotName)


def _render(machine: LocalMachine) -> None:
    """Both slots as the environment file has them, all weight on the initial one, no promotion behind them."""
    layout, environment = machine.layout, machine.environment
    layout.journal.unlink(missing_ok=True)
    for slot in SlotName:
        write_json(layout.slot_config(slot), slots.runtime_config(layout, environment, slot, machine.ports))
        layout.slot_config(slot).with_suffix(".spec.json").unlink(missing_ok=True)
    weights = {str(slot): 100 if slot is environment.slots.initial else 0 for slot in SlotName}
    write_json(layout.routes, gateway.routes(weights, environment.gateway.timeout_seconds))


def _start_cache(machine: LocalMachine, program: list[str], port: int) -> None:
    layout = machine.layout
    if not _alive(layout, CACHE):
        config = cache.write_config(layout, machine.environment.cache, port)
        start_part(layout, CACHE, [*program, config])
    _wait(layout, CACHE, lambda: cache.answers(layout, port))


def _start_gateway(machine: LocalMachine, program: list[str]) -> None:
    layout = machine.layout
    config = gateway.bootstrap(layout.name, machine.ports, layout.routes)
    path = layout.envoy / "envoy.json"
    if _alive(layout, GATEWAY) and read_json(path) != config:
        stop_part(layout, GATEWAY, STOP_SECONDS)
    if not _alive(layout, GATEWAY):
        write_json(path, config)
        start_part(layout, GATEWAY, [*program, "-c", str(path), "--log-level", "warning", "--disable-hot-restart"])
    before = read_json(layout.routes)
    document = gateway.routes(gateway.read_weights(before), machine.environment.gateway.timeout_seconds, gateway.read_cohort(before))
    if before != document:  # written only for a new time limit: a promotion may be moving weights
        write_json(layout.routes, document)
    _wait(layout, GATEWAY, lambda: machine.serves_routes(read_json(layout.routes)["version_info"]))


def _start_keeper(machine: LocalMachine) -> None:
    """Nothing waits for it: neither serving nor a promotion depends on it."""
    layout, port = machine.layout, machine.ports.monitors[monitoring.KEEPER]
    start_part(
        layout, monitoring.KEEPER, [*programs.inferstack(), "keeper", layout.name, "--project", str(layout.root), "--port", str(port)]
    )


def _start_monitor(machine: LocalMachine, monitor: monitoring.Monitor) -> str | None:
    """Start Prometheus or Alertmanager; why it does not run, or None. Serving does not depend on either."""
    layout, chosen, name = machine.layout, machine.ports, monitor.name
    assert monitor.program is not None
    config = monitoring.config(name, layout, chosen.monitors, chosen.slot_metrics, chosen.gateway_admin)
    path = layout.directory / f"{name}.json"
    other_rules = name == monitoring.PROMETHEUS and monitoring.write_rules(layout, machine.environment)
    if _alive(layout, name) and (other_rules or read_json(path) != config):
        stop_part(layout, name, STOP_SECONDS)
    if not _alive(layout, name):
        write_json(path, config)
        start_part(layout, name, [monitor.program, *monitoring.arguments(name, layout, path, chosen.monitors[name])])
    try:
        _wait(layout, name, lambda: _answers(chosen.monitors[name], "/-/ready"))
    except LocalError as error:
        return error.message
    return None


def _answers(port: int, path: str) -> bool:
    try:
        return http.get(port, path)[0] == 200
    except OSError:
        return False


def _describe(machine: LocalMachine, slot: SlotName) -> str:
    """Wait until the slot is ready and say what it serves."""
    state = machine.wait_ready(slot, machine.environment.promotion.ready_seconds)
    served = ", ".join(f"{model['name']} {model['quantization']}" for model in state.config["models"])
    return f"{served} at {state.url}"


def _wait(layout: Layout, part: str, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        failed = "ended while starting" if not _alive(layout, part) else "is not ready" if time.monotonic() >= deadline else None
        if failed:
            raise LocalError(
                "part_failed",
                f"{part} {failed}; its last lines:\n{last_lines(layout, part)}",
                path=str(layout.log(part)),
                next_step=f"mend the cause and run `inferstack up {layout.name}` again",
            )
        time.sleep(0.02)


def _part_names(environment: Environment) -> list[str]:
    shared = [CACHE] if cache.wanted(environment.cache) else []
    return [GATEWAY, monitoring.KEEPER, *shared, *(part_name(slot) for slot in SlotName)]


def _alive(layout: Layout, part: str) -> bool:
    record = read_part(layout, part)
    return record is not None and record.alive


def _disk_error(error: OSError, layout: Layout) -> LocalError | None:
    """The orderly form of a full or read-only disk; None for another fault."""
    words = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
    }
    if error.errno not in words:
        return None
    path = str(error.filename or layout.directory)
    return LocalError(
        "disk",
        f"{words[error.errno]}: cannot write {path}",
        path=path,
        next_step=f"make room, then run `inferstack up {layout.name}` again, or `inferstack down {layout.name}`",
    )
