"""Namespaces of a machine with real pods: processes, mounts and network of its own, all gone when one process ends.

The first process of the enclosure is `pause`. When it ends, the kernel kills every other process in it; with the last one
go the mounts, the interfaces and the iptables rules. Nothing has to be undone one by one, whatever was killed before.
"""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from machine import processes
from machine.layout import NODE_ADDRESS

_HOLDER = "enclosure"
# node0 carries the node's address. The default route into it makes service addresses routable, which kube-proxy rewrites
# before anything is sent; whatever is not rewritten ends there, because nobody answers at the other end.
# A kubelet insists on some values of kernel switches that belong to the whole machine: it finds them in files of its own.
_SWITCHES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
_SCRIPT = """set -e
mount --make-rshared /
for folder in /run /var/log /var/lib/cni; do mount -t tmpfs tmpfs $folder; done
{switches}
ip link set lo up
ip link add node0 type veth peer name node0p
ip address add {address}/32 dev node0
ip link set node0 up; ip link set node0p up
ip route add default dev node0 src {address}
echo 1 > /proc/sys/net/ipv4/ip_forward
echo {folder} > {folder}/enclosed
exec {pause} {folder}
"""


def refusal() -> str | None:
    """Why this machine cannot have an enclosure; None when it can."""
    if os.geteuid() != 0:
        return "real pods need root"
    for command in ("unshare", "nsenter", "ip", "mount"):
        if not shutil.which(command):
            return f"`{command}` is not installed"
    probe = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
    test = "mount --make-rshared / && mount -t tmpfs tmpfs /run && ip link add probe0 type veth peer name probe1"
    done = subprocess.run([*probe, "sh", "-c", test], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"namespaces cannot be made: {done.stderr.strip() or done.returncode}"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "/sys/fs/cgroup cannot be written"
    return None


def open_(folder: Path, pause: Path) -> None:
    """Make the enclosure and wait until it stands. Raises RuntimeError with its output when it does not."""
    mount_point = Path("/var/lib/cni")
    if not mount_point.exists():
        (folder / "made-cni-folder").touch()
        mount_point.mkdir(parents=True)
    switches = "\n".join(
        f"echo {value} > /run/switch-{number}; mount --bind /run/switch-{number} /proc/sys/{path}"
        for number, (path, value) in enumerate(_SWITCHES.items())
    )
    script = _SCRIPT.format(switches=switches, address=NODE_ADDRESS, folder=shlex.quote(str(folder)), pause=shlex.quote(str(pause)))
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
    holder = processes.start(folder, _HOLDER, ["sh", "-c", script], inside=unshare)
    until = time.monotonic() + 10
    while not (folder / "enclosed").exists():
        if not holder.alive or time.monotonic() > until:
            raise RuntimeError(f"the enclosure did not come up: {(folder / 'log' / _HOLDER).read_text().strip()}")
        time.sleep(0.02)


def prefix(folder: Path, *, network_only: bool = False) -> list[str]:
    """Command prefix that enters the enclosure; with ``network_only`` files and processes stay those of outside."""
    first = processes.inner_pid(processes.named(folder, _HOLDER))
    return ["nsenter", f"--target={first}", "--net", *([] if network_only else ["--mount", "--pid"]), "--"]


def close(folder: Path, pause: Path, cgroup: str) -> None:
    """End the enclosure of ``folder`` and take away what the kernel does not: control groups and one mount point."""
    for pid in [*processes.beginning(folder), *processes.of_command(pause, str(folder))]:
        processes.kill(pid)
    for running in processes.remembered(folder):
        processes.end(running)
    _remove_cgroups(cgroup)
    if (folder / "made-cni-folder").exists():
        try:
            Path("/var/lib/cni").rmdir()
        except OSError:  # somebody else uses it by now
            pass


def make_cgroups(name: str) -> None:
    """Make the control group that all pods live in, in every hierarchy, as the kubelet expects it (``cgroupRoot``)."""
    for root in _cgroup_roots():
        (root / name).mkdir(exist_ok=True)
    cpuset = Path("/sys/fs/cgroup/cpuset")
    if (cpuset / "cpuset.cpus").exists():  # cgroup v1: a new cpuset is empty and takes no process
        for file in ("cpuset.cpus", "cpuset.mems"):
            (cpuset / name / file).write_text((cpuset / file).read_text())


def is_cgroup_v1() -> bool:
    return not Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _cgroup_roots() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.is_symlink()] if is_cgroup_v1() else [root]


def _remove_cgroups(name: str) -> None:
    until = time.monotonic() + 10
    left = [root / name for root in _cgroup_roots() if (root / name).exists()]
    while left and time.monotonic() < until:
        for top in left:
            for folder in sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
                _rmdir(folder)
            _rmdir(top)
        left = [top for top in left if top.exists()]
        if left:
            time.sleep(0.05)
    if left:
        raise RuntimeError(f"control groups that still have processes: {', '.join(map(str, left))}")


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass
