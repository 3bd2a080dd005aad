"""OpenTelemetry traces: one span per request, sent to a collector that the operator names.

Nothing is sent unasked. Names follow OpenTelemetry's conventions for generative AI; no span has
what people write.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any

from kanna import __version__
from kanna._util import extras
from kanna.errors import MissingError


class TraceExporter:
    """Sends spans to a collector.

    Args:
        url: Of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces.

    Raises:
        MissingError: The extra is not installed.
    """

    def __init__(self, url: str) -> None:
        extras.require("otel", "the export of traces")
        try:
            sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
            export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
            otlp: Any = importlib.import_module(
                "opentelemetry.exporter.otlp.proto.http.trace_exporter"
            )
            resources: Any = importlib.import_module("opentelemetry.sdk.resources")
            self._api: Any = importlib.import_module("opentelemetry.trace")
            self._propagate: Any = importlib.import_module(
                "opentelemetry.trace.propagation.tracecontext"
            )
        except ImportError as error:
            raise MissingError(
                f"OpenTelemetry does not load: {error}", todo=extras.command("otel")
            ) from error
        resource = resources.Resource.create(
            {"service.name": "kanna", "service.version": __version__}
        )
        self._provider: Any = sdk.TracerProvider(resource=resource)
        self._provider.add_span_processor(
            export.BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=url))
        )
        self._tracer: Any = self._provider.get_tracer("kanna.serve")

    def record(
        self,
        path: str,
        headers: Mapping[str, str],
        seconds: float,
        status: int,
        attributes: Mapping[str, str | int],
    ) -> None:
        """Export a request that ended just now, below the caller's span if it sent a `traceparent`.

        Args:
            path: Of the route.
            headers: Of the request.
            seconds: How long it took.
            status: Of the answer.
            attributes: More of the span.
        """
        context = self._propagate.TraceContextTextMapPropagator().extract(dict(headers))
        end = time.time_ns()
        http_attributes = {
            "http.request.method": "POST",
            "http.route": path,
            "http.response.status_code": status,
        }
        span = self._tracer.start_span(
            f"POST {path}",
            context=context,
            kind=self._api.SpanKind.SERVER,
            start_time=end - int(seconds * 1e9),
            attributes={**http_attributes, **attributes},
        )
        if status >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(end_time=end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
