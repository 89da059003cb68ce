"""Start and end a machine."""

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from machine import build, client, enclosure, images, node, objects, pki, processes, programs
from machine.layout import GATEWAY_PORT, NODE, Machine, Mode, Ports, cache_folder, default_folder, load
from machine.pins import PACKAGES

Say = Callable[[str], None]
LISTENERS = (GATEWAY_PORT, 8000)  # ports that a Gateway's listeners may have here


class CannotStart(RuntimeError):
    """This machine cannot run what was asked for; the text says why."""


def missing_packages() -> list[str]:
    """Debian packages that a node with real pods needs and that are not there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [package for package, command in PACKAGES.items() if not shutil.which(command, path=path)]


def best_mode(*, install: bool, say: Say) -> tuple[Mode, str | None]:
    """The first mode that this machine allows, with the reason where it is not `pods`."""
    reason = enclosure.refusal()
    if reason:
        return "kwok", reason
    if install and missing_packages():
        _install(missing_packages(), say)
    missing = missing_packages()
    if missing:
        return "kwok", f"not installed: {', '.join(missing)} (apt-get install {' '.join(missing)})"
    return "pods", None


def up(mode: Mode | None = None, folder: Path | None = None, say: Say = print) -> Machine:
    """Start a machine, or return the one that runs. Raises CannotStart, CannotBuild or NotInTime; nothing is left running then."""
    folder = folder or default_folder()
    running = load(folder)
    if running and _answers(running):
        return running
    down(folder)
    reason = None
    if mode is None:
        mode, reason = best_mode(install=True, say=say)
    elif mode == "pods" and (reason := enclosure.refusal()):
        raise CannotStart(reason)
    if reason:
        say(f"no real pods here ({reason}): nodes and pods only exist in the API server")
    folder.mkdir(mode=0o700)
    built = build.build(mode, cache_folder(), say)
    started = time.monotonic()

    def note(text: str) -> None:
        say(f"{time.monotonic() - started:6.1f} s  {text}")

    m = Machine(mode, folder, built, _ports(mode))
    m.save()
    try:
        _start(m, note)
    except BaseException:
        down(folder, keep_logs=True)
        raise
    return m


def down(folder: Path | None = None, *, keep_logs: bool = False) -> bool:
    """End the machine of ``folder`` and remove its files; True when there was one. Safe to repeat, whatever was killed before."""
    folder = folder or default_folder()
    if not folder.exists():
        return False
    m = load(folder)
    if m and m.mode == "pods":
        enclosure.close(folder, m.programs / "pause", m.cgroup)
    for running in processes.remembered(folder):
        processes.end(running)
    if m:
        for name in ("kube", "etcd", "kwok", "relay"):
            for pid in processes.of_command(m.programs / name, f"{folder}/"):
                processes.kill(pid)
    if keep_logs and (folder / "log").exists():
        kept = folder.with_name(folder.name + "-log")
        shutil.rmtree(kept, ignore_errors=True)
        (folder / "log").rename(kept)
    _remove(folder)
    return True


def _remove(folder: Path, seconds: float = 5) -> None:
    """Remove the folder although somebody may write or remove in it meanwhile: a program that is just ending, another `down`."""
    until = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


def enter(m: Machine) -> list[str]:
    """Command prefix with which a program sees the machine's network: pods, services, the Gateway at its real address."""
    return enclosure.prefix(m.folder, network_only=True) if m.mode == "pods" else []


def import_image(m: Machine, archive: Path) -> None:
    """Load an OCI archive into the node's containerd."""
    command = ["ctr", f"--address={m.containerd_socket}", "--namespace=k8s.io", "images", "import", "--all-platforms", str(archive)]
    done = subprocess.run(processes.with_this_one([*enclosure.prefix(m.folder), *command]), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{archive} was not taken by containerd: {done.stderr.strip()}")


def _start(m: Machine, note: Say) -> None:
    pki.make(m.pki, m.ports.api)
    shutil.copy(m.pki / "admin.kubeconfig", m.kubeconfig)
    inside: list[str] = []
    if m.mode == "pods":
        enclosure.open_(m.folder, m.programs / "pause")
        inside = enclosure.prefix(m.folder)
        _relay(m)
    note("certificates" + (", namespaces" if inside else ""))

    def run(*wanted: programs.Program) -> None:
        for program in wanted:
            processes.start(m.folder, program.name, program.argv, program.environment, inside)

    run(programs.etcd(m), programs.api_server(m))
    client.wait("API server", 120, lambda: client.ready(m))
    note("API server ready")
    if m.mode != "api":
        run(programs.controllers(m), programs.scheduler(m))
    if m.mode == "pods":
        node.configure(m)
        run(programs.containerd(m))
        _import_pause(m)
        run(programs.kubelet(m), programs.kube_proxy(m), programs.policies(m), programs.dns(m), programs.metrics_server(m))
        note("node started")
    client.apply_files(m, build.custom_resources())
    client.wait("custom resources", 60, lambda: client.get(m, "/apis/gateway.networking.k8s.io/v1/gatewayclasses")[0] == 200)
    client.apply(m, objects.gateway_class())
    note("custom resources accepted")
    if m.mode == "api":
        return
    name = NODE
    if m.mode == "kwok":
        name = "kwok-1"
        run(programs.kwok(m, build.kwok_stages()))
        client.apply(m, [objects.kwok_node(name)])
    else:
        run(programs.traefik(m, client.tool("traefik"), LISTENERS))
        client.apply(m, objects.metrics_service(m))
    client.wait(f"node {name}", 120, lambda: client.node_is_ready(m, name))
    client.wait("default service account", 60, lambda: client.get(m, "/api/v1/namespaces/default/serviceaccounts/default")[0] == 200)
    note("node ready")


def _import_pause(m: Machine) -> None:
    archive = m.programs / "pause.tar"
    if not archive.exists():
        images.pause(m.programs / "pause", archive, images.ARCHITECTURES[platform.machine()])
    client.wait("containerd", 30, lambda: _containerd_answers(m))
    import_image(m, archive)


def _containerd_answers(m: Machine) -> bool:
    command = [*enclosure.prefix(m.folder), "ctr", f"--address={m.containerd_socket}", "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _relay(m: Machine) -> None:
    """Open the two ports on loopback outside and carry what arrives there into the enclosure."""
    targets = {m.ports.api: m.ports.api, m.ports.gateway: GATEWAY_PORT}
    listening = []
    for outside in targets:
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(("127.0.0.1", outside))
        opened.listen(1024)
        listening.append(opened)
    carried = [f"{one.fileno()}=127.0.0.1:{inside}" for one, inside in zip(listening, targets.values(), strict=True)]
    argv = [str(m.programs / "relay"), *carried]
    processes.start(m.folder, "relay", argv, inside=enclosure.prefix(m.folder), sockets=[one.fileno() for one in listening])
    for one in listening:
        one.close()


def _ports(mode: Mode) -> Ports:
    free = _free_ports(8)
    if mode == "pods":
        return Ports(api=free[0], gateway=free[1])
    return Ports(*free)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _answers(m: Machine) -> bool:
    try:
        return client.ready(m)
    except OSError:
        return False


def _install(packages: list[str], say: Say) -> None:
    if not shutil.which("apt-get"):
        return
    say(f"installing {' '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            say(f"{' '.join(command[:2])}: {done.stderr.strip()[-300:]}")
