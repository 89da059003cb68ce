"""The command line of every program, as data.

The controllers and the scheduler end at once where the API server does not know their rights yet; the others wait for each other.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from machine.layout import NODE, NODE_ADDRESS, Machine


@dataclass(frozen=True)
class Program:
    """One program: its name in the log folder, its arguments and what it needs in its environment."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def etcd(m: Machine) -> Program:
    client, peer = f"http://127.0.0.1:{m.ports.etcd}", f"http://127.0.0.1:{m.ports.etcd_peer}"
    return Program(
        "etcd",
        (
            f"{m.programs}/etcd",
            f"--data-dir={m.folder}/etcd",
            "--name=machine",
            "--unsafe-no-fsync",  # the data ends with the machine
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=machine={peer}",
            "--log-level=warn",
        ),
    )


def api_server(m: Machine) -> Program:
    enclosed = m.mode == "pods"
    address = NODE_ADDRESS if enclosed else "127.0.0.1"
    return _kube(
        m,
        "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{m.ports.etcd}",
        f"--bind-address={'0.0.0.0' if enclosed else '127.0.0.1'}",
        f"--advertise-address={NODE_ADDRESS}",
        f"--external-hostname={address}",
        f"--secure-port={m.ports.api}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={m.pki}/ca.crt",
        f"--tls-cert-file={m.pki}/apiserver.crt",
        f"--tls-private-key-file={m.pki}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={m.pki}/sa.pub",
        f"--service-account-signing-key-file={m.pki}/sa.key",
        f"--kubelet-client-certificate={m.pki}/kubelet-client.crt",
        f"--kubelet-client-key={m.pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={m.pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--enable-aggregator-routing=true",
        f"--requestheader-client-ca-file={m.pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={m.pki}/front-proxy.crt",
        f"--proxy-client-key-file={m.pki}/front-proxy.key",
    )


def controllers(m: Machine) -> Program:
    return _kube(
        m,
        "kube-controller-manager",
        *_identity(m, "controllers"),
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={m.pki}/sa.key",
        f"--root-ca-file={m.pki}/ca.crt",
        f"--cluster-signing-cert-file={m.pki}/ca.crt",
        f"--cluster-signing-key-file={m.pki}/ca.key",
        "--bind-address=127.0.0.1",
        f"--secure-port={m.ports.controllers}",
        "--horizontal-pod-autoscaler-sync-period=5s",
    )


def scheduler(m: Machine) -> Program:
    return _kube(
        m,
        "kube-scheduler",
        *_identity(m, "scheduler"),
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={m.ports.scheduler}",
    )


def kwok(m: Machine, stages: Iterable[Path]) -> Program:
    """Acts as the kubelet of every node."""
    fixed = (f"{m.programs}/kwok", f"--kubeconfig={m.pki}/admin.kubeconfig", "--manage-all-nodes=true", "--node-lease-duration-seconds=40")
    return Program("kwok", (*fixed, *(f"--config={path}" for path in stages)))


def containerd(m: Machine) -> Program:
    return Program("containerd", ("containerd", "--config", f"{m.folder}/containerd.toml"))


def kubelet(m: Machine) -> Program:
    return _kube(
        m,
        "kubelet",
        f"--kubeconfig={m.pki}/kubelet.kubeconfig",
        f"--config={m.folder}/kubelet.yaml",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
        f"--root-dir={m.folder}/kubelet",
        f"--cert-dir={m.folder}/kubelet-pki",
    )


def kube_proxy(m: Machine) -> Program:
    return _kube(m, "kube-proxy", f"--config={m.folder}/proxy.yaml")


def policies(m: Machine) -> Program:
    """This package's own, see `machine.policies`."""
    here = str(Path(__file__).parents[1])
    return Program("policies", (sys.executable, "-m", "machine.policies", str(m.folder)), {"PYTHONPATH": here})


def dns(m: Machine) -> Program:
    return Program("dns", (f"{m.programs}/dns", "-conf", f"{m.folder}/Corefile"))


def metrics_server(m: Machine) -> Program:
    return _kube(
        m,
        "metrics-server",
        f"--kubeconfig={m.pki}/admin.kubeconfig",
        *_identity(m, "admin")[1:],
        f"--secure-port={m.ports.metrics}",
        f"--tls-cert-file={m.pki}/metrics-server.crt",
        f"--tls-private-key-file={m.pki}/metrics-server.key",
        f"--kubelet-certificate-authority={m.pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--metric-resolution=10s",
        "--kubelet-request-timeout=5s",  # has to stay below the resolution
    )


def traefik(m: Machine, executable: str, listener_ports: tuple[int, ...]) -> Program:
    """Traefik on the node, not in a pod: the pods' addresses are reachable from there, and no image is needed."""
    return Program(
        "traefik",
        (
            executable,
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            *(f"--entrypoints.port{port}.address=:{port}" for port in listener_ports),
            "--ping=true",
            f"--entrypoints.traefik.address=127.0.0.1:{m.ports.traefik}",
            "--providers.kubernetesgateway=true",
            f"--providers.kubernetesgateway.statusaddress.ip={NODE_ADDRESS}",
            "--providers.kubernetesgateway.throttleduration=0",
            "--providers.providersthrottleduration=100ms",
            "--metrics.prometheus=true",
            "--log.level=INFO",
        ),
        {"KUBECONFIG": f"{m.pki}/traefik.kubeconfig"},
    )


def _identity(m: Machine, user: str) -> tuple[str, str, str]:
    file = f"{m.pki}/{user}.kubeconfig"
    return f"--kubeconfig={file}", f"--authentication-kubeconfig={file}", f"--authorization-kubeconfig={file}"


def _kube(m: Machine, name: str, *arguments: str) -> Program:
    return Program(name, (f"{m.programs}/kube", name, *arguments))
