"""Small requests to this machine: never through a proxy, never longer than asked."""

import http.client
import json
from collections.abc import Mapping
from typing import Any


def get(port: int, path: str, *, timeout: float = 2.0, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of `GET http://127.0.0.1:port/path`; raises OSError when nobody answers properly."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"127.0.0.1:{port} does not speak HTTP: {error!r}") from None
    finally:
        connection.close()


def get_json(port: int, path: str, *, timeout: float = 2.0) -> tuple[int, Any]:
    """Like `get`, with the body parsed; None where it is not JSON."""
    status, body = get(port, path, timeout=timeout)
    try:
        return status, json.loads(body)
    except ValueError:
        return status, None
