"""The shared cache of a local environment: a Valkey server on a loopback port, closed by a password."""

import secrets
import socket
from pathlib import Path

from inferstack.environment import Cache
from inferstack.environment.quantity import quantity
from inferstack.local.layout import Layout
from inferstack.promotion.whole import write_whole


def wanted(settings: Cache) -> bool:
    """Whether the environment has a shared cache on this machine."""
    return settings.backend == "process"


def write_config(layout: Layout, settings: Cache, port: int) -> str:
    """Write Valkey's configuration (with a password made once) and return its path."""
    if not _password(layout):
        write_whole(_password_file(layout), secrets.token_urlsafe(24) + "\n")
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {_password(layout)}",
        f"maxmemory {int(quantity(settings.size))}",
        "maxmemory-policy allkeys-lru",
        'save ""',
        "appendonly no",
        "daemonize no",
    ]
    path = layout.directory / "valkey.conf"
    write_whole(path, "\n".join(lines) + "\n")
    return str(path)


def url(layout: Layout, port: int | None) -> str | None:
    """Address of the cache with its password; None where the environment has none."""
    return None if port is None else f"redis://:{_password(layout)}@127.0.0.1:{port}/0"


def answers(layout: Layout, port: int) -> bool:
    """Whether the server takes commands with our password."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {_password(layout)}\r\nPING\r\n".encode())
            with connection.makefile("rb") as lines:
                return [lines.readline(), lines.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
    except OSError:
        return False


def _password_file(layout: Layout) -> Path:
    return layout.directory / "cache-password"


def _password(layout: Layout) -> str:
    try:
        return _password_file(layout).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
