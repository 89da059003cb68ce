"""Metrics as JSON and alerts of Alertmanager (E9)."""

import asyncio
import json
import math
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

from inferstack_runtime.api.fields import Field, Fields
from inferstack_runtime.api.http import Request, Response, json_response
from inferstack_runtime.api.service import Service
from inferstack_runtime.errors import ApiError, not_found
from inferstack_runtime.metrics import find

_SECONDS = 5
_MOST_BYTES = 16 * 1024 * 1024

ACKNOWLEDGE_FIELDS = Fields(
    (
        Field("author", "string", "Who takes it; by default the id of the calling key."),
        Field("comment", "string", "Why.", "acknowledged"),
        Field("expires_in_minutes", "integer", "When the alert may come back.", 60, minimum=1, maximum=10080),
    )
)


async def metrics(service: Service, request: Request) -> Response:
    """`GET /api/v1/monitoring/metrics`: every series of the process."""
    service.refresh_metrics()
    series: dict[str, dict[str, Any]] = {}
    for name, labels, value in service.metrics.series():
        metric = find(name)
        if metric is None or name.endswith("_bucket"):
            continue
        known = series.setdefault(name, {"name": name, "unit": metric.unit, "help": metric.help, "values": []})
        known["values"].append({"labels": labels, "value": value if math.isfinite(value) else None})
    return json_response({"metrics": list(series.values())})


async def alerts(service: Service, request: Request) -> Response:
    """`GET /api/v1/monitoring/alerts`: what fires now, from Alertmanager."""
    found = await _ask(service, "GET", "/api/v2/alerts")
    listed = [
        {
            "alert_id": alert.get("fingerprint"),
            "name": alert.get("labels", {}).get("alertname"),
            "severity": alert.get("labels", {}).get("severity"),
            "state": alert.get("status", {}).get("state"),
            "acknowledged": bool(alert.get("status", {}).get("silencedBy")),
            "started_at": alert.get("startsAt"),
            "labels": alert.get("labels", {}),
            "annotations": alert.get("annotations", {}),
        }
        for alert in found
    ]
    return json_response({"alerts": listed})


async def acknowledge(service: Service, request: Request) -> Response:
    """`PUT /api/v1/monitoring/alerts/{alert_id}/acknowledge`: a silence of exactly this alert, with author and end."""
    values = ACKNOWLEDGE_FIELDS.read(await service.json(request))
    wanted = request.params["alert_id"]
    alert = next((alert for alert in await _ask(service, "GET", "/api/v2/alerts") if alert.get("fingerprint") == wanted), None)
    if alert is None:
        raise not_found(f"There is no alert {wanted[:100]!r} now.", "alert_id", "alert_not_found")
    begin = datetime.now(UTC)
    end = begin + timedelta(minutes=values["expires_in_minutes"])
    author = values["author"] or request.caller.key_id
    silence = {
        "matchers": [{"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in sorted(alert["labels"].items())],
        "startsAt": begin.isoformat(),
        "endsAt": end.isoformat(),
        "createdBy": author,
        "comment": values["comment"],
    }
    made = await _ask(service, "POST", "/api/v2/silences", silence)
    return json_response(
        {"alert_id": wanted, "acknowledged": True, "silence_id": made.get("silenceID"), "author": author, "expires_at": end.isoformat()}
    )


async def _ask(service: Service, method: str, path: str, body: object = None) -> Any:
    base = service.config.alertmanager_url
    if base is None:
        raise not_found("No Alertmanager is configured (`alertmanager_url`).", code="alertmanager_not_configured")
    try:
        return await asyncio.to_thread(_call, method, base.rstrip("/") + path, body)
    except (OSError, ValueError) as error:
        raise ApiError(502, f"Alertmanager did not answer: {error}", code="alertmanager_unavailable") from None


def _call(method: str, url: str, body: object) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)  # noqa: S310 (http and https only)
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
        return json.loads(answer.read(_MOST_BYTES))
