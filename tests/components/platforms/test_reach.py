"""A port-forward that breaks."""

import socket

import httpcore
import pytest

from inferstack.platforms.kube_reach import _forward_type, _Stream

pytest.importorskip("kubernetes")


class Broken:
    """A websocket whose peer resets it."""

    connected = True

    def __init__(self) -> None:
        self.sock, self.far = socket.socketpair()
        self.far.sendall(b"x")

    def fileno(self) -> int:
        return self.sock.fileno()

    def recv_data_frame(self, control: bool) -> tuple[int, bytes]:
        raise ConnectionResetError("reset by peer")


def test_a_forward_whose_pod_dies_ends_its_stream_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    broken = Broken()
    stream = _Stream(_forward_type()(broken, [8000]).socket(8000))
    assert stream.read(100, timeout=10) == b""
    stream.close()
    broken.sock.close()
    broken.far.close()
    assert capfd.readouterr().err == ""


def test_a_pod_that_cannot_be_reached_is_a_connection_error() -> None:
    from kubernetes.client import Configuration

    from inferstack.platforms.kube_reach import _Forwarded

    settings = Configuration()
    settings.host = "http://127.0.0.1:1"
    with pytest.raises(httpcore.ConnectError, match="port-forward to pod-1:8000"):
        _Forwarded(settings, {"name": "pod-1", "namespace": "ns"}).connect_tcp("pod-1", 8000)
