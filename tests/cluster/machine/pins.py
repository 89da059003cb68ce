"""Every version that the machine is made of.

Programs: programs/go.mod; the Prometheus adapter: adapter/go.mod. kubectl and Traefik: locks/development.txt.
Custom resources and Debian packages: here.
"""

import re
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
ADAPTER = Path(__file__).parent / "adapter"

# What a node with real pods takes from Debian and its children; `command` is what must be there afterwards.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
}


@dataclass(frozen=True)
class CustomResources:
    """Files with CustomResourceDefinitions inside a Go module; ``sum`` is the module's checksum, as in go.sum."""

    module: str
    version: str
    sum: str
    files: tuple[str, ...]


_WATCHED = ("podmonitors", "probes", "prometheusrules", "servicemonitors")
CUSTOM_RESOURCES = (
    CustomResources(
        "sigs.k8s.io/gateway-api",
        "v1.6.3",
        "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=",
        ("config/crd/standard/gateway.networking.k8s.io_*.yaml",),
    ),
    CustomResources(
        "github.com/kedacore/keda/v2",
        "v2.20.2",
        "h1:SR60v8uIcelbveS8n/1jcl8tLdBBIbHMxmdOHw8tKqA=",
        ("config/crd/bases/keda.sh_*.yaml",),
    ),
    CustomResources(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        tuple(
            f"example/prometheus-operator-crd/monitoring.coreos.com_{one}.yaml" for one in _WATCHED
        ),  # not those of the operator's own parts
    ),
)


def kubernetes_version() -> str:
    """The Kubernetes version in programs/go.mod, for instance `v1.36.3`."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (PROGRAMS / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise LookupError(f"{PROGRAMS / 'go.mod'} names no version of k8s.io/kubernetes")
    return found[1]
