"""The console: one page for the people who run an environment, and the look at both slots behind it.

The page is plain files without a build step. They hold nothing secret and need no key; everything they show is asked for with one.
"""

from pathlib import Path

from inferstack_runtime.api.console.overview import overview
from inferstack_runtime.api.http import Request, Response, json_response
from inferstack_runtime.api.service import Service
from inferstack_runtime.errors import not_found

_FOLDER = Path(__file__).parent
_FILES = {
    "/console": ("index.html", b"text/html; charset=utf-8"),
    "/console/console.css": ("console.css", b"text/css; charset=utf-8"),
    "/console/console.js": ("console.js", b"text/javascript; charset=utf-8"),
    "/console/charts.js": ("charts.js", b"text/javascript; charset=utf-8"),
    "/console/samples.js": ("samples.js", b"text/javascript; charset=utf-8"),
}
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


async def page(service: Service, request: Request) -> Response:
    """`GET /console` and its files; 404 where `console` is not configured."""
    _configured(service)
    found = _FILES.get(request.path)
    if found is None:
        raise not_found(f"There is no {request.path[:200]}; the page is at /console.")
    name, content_type = found
    return Response(200, (_FOLDER / name).read_bytes(), list(_HEADERS), content_type)


async def state(service: Service, request: Request) -> Response:
    """`GET /console/api/state`: both slots, weights and promotions as they are now."""
    _configured(service)
    assert service.config.console is not None
    identity = service.config.identity
    return json_response({**await overview(service.config.console), "environment": identity.environment, "served_by": identity.slot})


def _configured(service: Service) -> None:
    if service.config.console is None:
        raise not_found("This process has no console (`console` in its configuration).", code="console_not_configured")
