"""What a route is, and how a request finds its own."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from inferstack_runtime.api.http import Request, Response, Stream
from inferstack_runtime.api.service import Service

Handler = Callable[[Service, Request], Awaitable[Response | Stream]]
Access = Literal["open", "inference", "jwt", "admin"]
"""`open`: no key; `inference`: a key; `jwt`: a key or a token of the identity provider; `admin`: a key with that scope."""


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` may hold `{name}` parts. `counted`: it is work in flight (health calls are not)."""

    method: str
    path: str
    handler: Handler
    access: Access = "inference"
    counted: bool = True


class Router:
    """Finds the route of a request: exact paths by one look-up, the few with parameters by their parts.

    A part is divided from the next before it is decoded, so that `%2F` belongs to a name. Names of models may also hold plain slashes,
    as clients write them who do not encode: where nothing else fits, such a name is the rest of the path.
    """

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            (patterns if "{" in route.path else self._exact).setdefault(route.path, {})[route.method] = route
        longest_first = sorted(patterns, key=lambda path: -path.count("/"))
        self._patterns = [(tuple(path.split("/")), patterns[path]) for path in longest_first]

    def find(self, path: str, raw: bytes) -> tuple[dict[str, Route], dict[str, str]] | None:
        """The routes of `path` by method, and its parameters; None for a path that does not exist. `raw`: the path before decoding."""
        methods = self._exact.get(path)
        if methods is not None:
            return methods, {}
        parts = raw.decode("latin-1").split("/")
        for joined in (False, True):
            for pattern, methods in self._patterns:
                params = _params(pattern, parts, joined)
                if params is not None:
                    return methods, params
        return None


def _params(pattern: tuple[str, ...], parts: list[str], joined: bool) -> dict[str, str] | None:
    """The parameters of a path, None where it does not fit; `joined`: the last one, a model's name, takes what is left."""
    if joined and len(parts) > len(pattern) and pattern[-1].startswith("{model"):
        parts = [*parts[: len(pattern) - 1], "/".join(parts[len(pattern) - 1 :])]
    if len(pattern) != len(parts):
        return None
    params: dict[str, str] = {}
    for expected, part in zip(pattern, parts, strict=True):
        text = unquote(part)
        if not expected.startswith("{"):
            if expected != text:
                return None
        elif not text:
            return None
        else:
            params[expected[1:-1]] = text
    return params
