"""Certificates and kubeconfigs of one machine: one authority, one certificate per program."""

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from machine.layout import CONTEXT, NODE, NODE_ADDRESS, SERVICE_ADDRESS

_SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


@dataclass(frozen=True)
class Certificate:
    """One certificate to make: ``name`` is its file, ``subject`` the identity that Kubernetes reads."""

    name: str
    subject: str
    usage: str = "clientAuth"
    alternatives: tuple[str, ...] = ()


def _server(*names: str) -> tuple[str, ...]:
    return (f"IP:{NODE_ADDRESS}", "IP:127.0.0.1", "DNS:localhost", *names)


CERTIFICATES = (
    Certificate("apiserver", "/CN=kube-apiserver", "serverAuth", _server(f"IP:{SERVICE_ADDRESS}", *(f"DNS:{n}" for n in _SERVICE_NAMES))),
    Certificate("kubelet-server", f"/CN={NODE}", "serverAuth", _server(f"DNS:{NODE}")),
    Certificate("metrics-server", "/CN=metrics-server", "serverAuth", _server("DNS:metrics-server.kube-system.svc")),
    Certificate("front-proxy", "/CN=front-proxy"),
    Certificate("kubelet-client", "/O=system:masters/CN=apiserver-kubelet"),
    Certificate("admin", "/O=system:masters/CN=admin"),
    Certificate("controllers", "/CN=system:kube-controller-manager"),
    Certificate("scheduler", "/CN=system:kube-scheduler"),
    Certificate("kubelet", f"/O=system:nodes/CN=system:node:{NODE}"),
    Certificate("proxy", "/CN=system:kube-proxy"),
    Certificate("traefik", "/CN=traefik"),
)
KUBECONFIGS = ("admin", "controllers", "scheduler", "kubelet", "proxy", "traefik")


def make(folder: Path, api_port: int) -> None:
    """Write all certificates, keys and kubeconfigs into ``folder`` (about one second)."""
    folder.mkdir(mode=0o700, exist_ok=True)
    _key(folder, "ca")
    _openssl(
        folder,
        *("req", "-x509", "-new", "-key", "ca.key", "-days", "3650", "-subj", "/CN=inferstack-machine", "-out", "ca.crt"),
        *("-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    for certificate in CERTIFICATES:
        _sign(folder, certificate)
    _openssl(folder, "genrsa", "-out", "sa.key", "2048")
    _openssl(folder, "rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
    for user in KUBECONFIGS:
        (folder / f"{user}.kubeconfig").write_text(kubeconfig(folder, user, f"https://127.0.0.1:{api_port}"))


def kubeconfig(folder: Path, user: str, server: str) -> str:
    """A kubeconfig that holds its keys itself, so that it can be copied anywhere."""

    def data(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CONTEXT, "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
            "users": [{"name": user, "user": {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
            "current-context": CONTEXT,
        }
    )


def _sign(folder: Path, certificate: Certificate) -> None:
    name = certificate.name
    _key(folder, name)
    _openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", certificate.subject, "-out", f"{name}.csr")
    extensions = ["basicConstraints=CA:false", f"extendedKeyUsage={certificate.usage}"]
    if certificate.alternatives:
        extensions.append("subjectAltName=" + ",".join(certificate.alternatives))
    (folder / f"{name}.ext").write_text("\n".join(extensions) + "\n")
    _openssl(
        folder,
        *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650"),
        *("-extfile", f"{name}.ext", "-out", f"{name}.crt"),
    )
    for rest in ("csr", "ext"):
        (folder / f"{name}.{rest}").unlink()


def _key(folder: Path, name: str) -> None:
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed in {folder}: {done.stderr.strip()}")
