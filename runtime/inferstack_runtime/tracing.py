"""Traces: one span per request and one per phase of each generation (queue, prefill, decode), over OTLP/HTTP, in the caller's trace.

Off unless `otlp_endpoint` is set. No prompt or answer text is an attribute.
"""

import time
from collections.abc import Mapping
from typing import Any

from inferstack_runtime.api.generation import Flight
from inferstack_runtime.config import Identity


class TracingUnavailable(Exception):
    """The libraries are not installed; the message says how to get them."""


class Tracer:
    """Makes spans and sends them in the background; an endpoint that is away costs spans, never requests."""

    def __init__(self, endpoint: str, identity: Identity, exporter: Any = None) -> None:
        """Raises TracingUnavailable. `exporter` stands for the endpoint in tests."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise TracingUnavailable("otlp_endpoint needs the extra `traces`: pip install 'inferstack-runtime[traces]'") from None
        attributes: dict[str, str | int] = {
            "service.name": "inferstack-runtime",
            "deployment.environment.name": identity.environment,
            "inferstack.slot": identity.slot,
            "inferstack.generation": identity.generation,
        }
        self._provider = TracerProvider(resource=Resource.create({**attributes}), shutdown_on_exit=False)
        url = endpoint.rstrip("/") + ("" if endpoint.rstrip("/").endswith("/v1/traces") else "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(url, timeout=5)))
        self._tracer: Any = self._provider.get_tracer("inferstack_runtime")
        self._propagator: Any = TraceContextTextMapPropagator()
        self._server_kind: Any = SpanKind.SERVER
        self._error: Any = Status(StatusCode.ERROR)
        self._within: Any = set_span_in_context
        self._offset = time.time_ns() - time.perf_counter_ns()

    def begin(self, headers: Mapping[str, str], method: str, route: str) -> Any:
        """The span of a request, in the trace that `traceparent` names."""
        context = self._propagator.extract(headers)
        attributes = {"http.request.method": method, "http.route": route}
        return self._tracer.start_span(f"{method} {route}", context, kind=self._server_kind, attributes=attributes)

    def phases(self, parent: Any, flight: Flight) -> None:
        """The spans of a generation that has ended."""
        timing, usage = flight.timing, flight.usage
        end = timing.finished if timing.finished is not None else time.perf_counter()
        first = timing.first_token if timing.first_token is not None else end
        begun = min(first, timing.started + (timing.queue_seconds or 0.0))
        shared = {"gen_ai.request.model": flight.served.name}
        self._span(parent, "queue", timing.started, begun, shared)
        prompt = {"gen_ai.usage.input_tokens": usage.prompt, "inferstack.cached_tokens": usage.cached}
        self._span(parent, "prefill", begun, first, shared | prompt)
        if timing.first_token is not None:
            self._span(parent, "decode", first, end, shared | {"gen_ai.usage.output_tokens": usage.generated})

    def end(self, span: Any, status: int, request_id: str, model: str) -> None:
        """End the span of a request."""
        span.set_attributes({"http.response.status_code": status, "inferstack.request_id": request_id, "gen_ai.request.model": model})
        if status >= 500:
            span.set_status(self._error)
        span.end()

    def close(self) -> None:
        """Send what is left; blocks for at most a few seconds."""
        self._provider.force_flush(3000)
        self._provider.shutdown()

    def _span(self, parent: Any, name: str, begin: float, end: float, attributes: dict[str, Any]) -> None:
        span = self._tracer.start_span(name, self._within(parent), start_time=self._wall(begin), attributes=attributes)
        span.end(self._wall(end))

    def _wall(self, seconds: float) -> int:
        return int(seconds * 1e9) + self._offset
