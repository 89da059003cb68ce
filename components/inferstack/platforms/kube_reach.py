"""How promotion talks to one pod: directly from inside the cluster, through the API server's port-forward from anywhere else.

Not through the API server's HTTP proxy, because that takes the Authorization header for itself.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpcore
import httpx

from inferstack.platforms.kube_api import load_kubeconfig

CONNECTIONS = 100
"""To one pod at a time: a comparison of slots keeps many requests running, and none may wait for another's connection."""


class Reach(Protocol):
    """A way to a pod's port."""

    def client(self, pod: dict[str, Any], port: int) -> Any:
        """A context manager that gives an httpx.Client whose base URL is the pod's port."""


class DirectReach:
    """From inside the cluster: the pod's own address."""

    @contextmanager
    def client(self, pod: dict[str, Any], port: int) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=f"http://{pod['status']['podIP']}:{port}", trust_env=False) as client:
            yield client


class ForwardReach:
    """From anywhere: one port-forward for each connection."""

    def __init__(self, context: str | None) -> None:
        from kubernetes import client

        self._settings = client.Configuration()
        load_kubeconfig(context, self._settings)

    @contextmanager
    def client(self, pod: dict[str, Any], port: int) -> Iterator[httpx.Client]:
        transport = httpx.HTTPTransport()
        transport._pool.close()
        transport._pool = httpcore.ConnectionPool(max_connections=CONNECTIONS, network_backend=_Forwarded(self._settings, pod["metadata"]))
        with httpx.Client(base_url=f"http://{pod['metadata']['name']}:{port}", transport=transport, trust_env=False) as client:
            yield client


def default_reach(context: str | None) -> Reach:
    """Directly where this process is a pod itself, else by port-forward."""
    return DirectReach() if os.environ.get("KUBERNETES_SERVICE_HOST") and context is None else ForwardReach(context)


class _Forwarded(httpcore.NetworkBackend):
    """Connections that are port-forwards to one pod, whatever name is asked for."""

    def __init__(self, settings: Any, metadata: dict[str, Any]) -> None:
        self._settings, self._metadata = settings, metadata

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None, socket_options: Any = None
    ) -> httpcore.NetworkStream:
        try:
            return _Stream(forward(self._settings, self._metadata["namespace"], self._metadata["name"], port))
        except Exception as error:
            raise httpcore.ConnectError(f"port-forward to {self._metadata['name']}:{port}: {error}") from error


def forward(settings: Any, namespace: str, pod: str, port: int) -> Any:
    """A socket to the pod's port. `settings`: the official client's Configuration. May be called from several threads, unlike
    `kubernetes.stream.portforward`, which swaps a method of the shared client meanwhile."""
    from kubernetes.stream import ws_client

    path = f"{settings.host}/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
    token = settings.get_api_key_with_prefix("authorization")
    url = ws_client.get_websocket_url(path)  # type: ignore[no-untyped-call]
    websocket = ws_client.create_websocket(settings, url, {"authorization": token} if token else {})  # type: ignore[no-untyped-call]
    return _forward_type()(websocket, [port]).socket(port)


@functools.cache
def _forward_type() -> Any:
    from kubernetes.stream.ws_client import PortForward
    from websocket import WebSocketException

    class QuietForward(PortForward):
        """The client's own, whose thread prints a traceback when the connection breaks. Here the reader meets the end of the stream."""

        def _proxy(self) -> None:
            try:
                super()._proxy()  # type: ignore[no-untyped-call]
            except (OSError, ValueError, RuntimeError, WebSocketException):
                for port in self.local_ports.values():
                    port.python.close()

    return QuietForward


class _Stream(httpcore.NetworkStream):
    """A socket as httpcore wants it."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(timeout)
            return bytes(self._socket.recv(max_bytes))
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        return None
