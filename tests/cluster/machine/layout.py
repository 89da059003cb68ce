"""Where a machine keeps its files, which ports it uses, and what it remembers of itself."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Mode = Literal["pods", "kwok", "api"]
CONTEXT = "inferstack-machine"  # the only context that this kit's `cluster` environment accepts
NODE = "node1"
NODE_ADDRESS = "10.88.0.1"
SERVICE_ADDRESS = "10.96.0.1"
GATEWAY_PORT = 8080


def project_root() -> Path:
    """The folder of the checkout that this file belongs to."""
    return next(folder for folder in Path(__file__).resolve().parents if (folder / "Pulumi.yaml").exists())


def cache_folder() -> Path:
    """`$INFERSTACK_CACHE/cluster`, by default under ~/.cache/inferstack."""
    home = os.environ.get("INFERSTACK_CACHE")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inferstack"
    return base / "cluster"


@dataclass(frozen=True)
class Ports:
    """TCP ports; inside a network namespace of its own only ``api`` and ``gateway`` are also open outside, on loopback."""

    api: int
    gateway: int
    etcd: int = 2379
    etcd_peer: int = 2380
    controllers: int = 10257
    scheduler: int = 10259
    traefik: int = 8081
    metrics: int = 4443


@dataclass(frozen=True)
class Machine:
    """One machine: its mode, its folder and its ports. Everything that it writes is under ``folder``."""

    mode: Mode
    folder: Path
    programs: Path
    ports: Ports

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """Name of the control group that all pods live in; its own, so that two machines never take each other's pods for orphans."""
        return self.folder.name

    @property
    def gateway_url(self) -> str:
        """Address of the Gateway, as seen from outside of the machine's namespaces."""
        return f"http://127.0.0.1:{self.ports.gateway}"

    def save(self) -> None:
        state = asdict(self) | {"folder": str(self.folder), "programs": str(self.programs)}
        unfinished = self.folder / "machine.json.part"  # a kill leaves the whole file or none
        unfinished.write_text(json.dumps(state, indent=1))
        unfinished.rename(self.folder / "machine.json")


def default_folder() -> Path:
    """A short path (unix sockets end at 107 bytes) that is the same for every command in this checkout."""
    digest = hashlib.sha256(str(project_root()).encode()).hexdigest()[:8]
    return Path(os.environ.get("INFERSTACK_MACHINE") or Path(tempfile.gettempdir()) / f"inferstack-{digest}")


def load(folder: Path) -> Machine | None:
    """The machine whose files are in ``folder``; None when there is none."""
    try:
        state: dict[str, Any] = json.loads((folder / "machine.json").read_text())
    except FileNotFoundError:
        return None
    return Machine(state["mode"], Path(state["folder"]), Path(state["programs"]), Ports(**state["ports"]))
