"""The one place that uses private members of OpenTelemetry's Zipkin exporter package.

`zipkin_span` turns a span of the OpenTelemetry SDK into Zipkin v2 JSON. It borrows the package's field encoder
(`JsonV2Encoder._encode_span`): which fields there are, the form of ids, times and kinds, and what is left out when it
is empty. Three hooks are overridden, because the package's own add what must not leave:

- `_encode_debug` sets `debug` on every sampled span. Zipkin's collector then ignores its own sample rate.
- `_extract_tags_from_span` adds the resource and the scope, which hold the host's name and the process's command line.
- `_extract_annotations_from_events` wraps each annotation in JSON.

The package's other half, `ZipkinExporter`, is not used. It takes the service's name from the first span of a batch,
does not retry, does not compress, and loses a batch when Zipkin is down (`tracing.sender` does these things).

OpenTelemetry ends its Zipkin exporters: this package gets fixes until December 2026. Nothing else in the project
imports it, and `zipkin_span` is all that others take from here. `tests/unit/test_zipkin_span.py` is its contract,
without the package: a function of twenty lines in there keeps it too, and can take this file's place.

None of these four members is public. `tests/unit/test_otel_internals.py` states what each must do, and fails with the
package's version when an upgrade changes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.zipkin.json.v2 import JsonV2Encoder
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext

#: The distribution whose private members are used here.
PACKAGE = "opentelemetry-exporter-zipkin-json"


def zipkin_span(span: ReadableSpan, endpoint: dict[str, str]) -> dict[str, Any]:
    """Encode one span for Zipkin.

    Args:
        span: A finished span. Its attributes must be strings already.
        endpoint: Zipkin's `localEndpoint`: `serviceName`, and `ipv4` or `ipv6`.

    Returns:
        The span as Zipkin's v2 API takes it. `kind` is absent for a span inside a service.
    """
    encoded: dict[str, Any] = _ENCODER._encode_span(span, endpoint)  # type: ignore[arg-type]  # it reads no more of it
    if encoded["kind"] is None:  # Zipkin's schema has no word for INTERNAL and refuses a null
        del encoded["kind"]
    return encoded


class _Encoder(JsonV2Encoder):
    """The package's encoder without its additions."""

    @staticmethod
    def _encode_debug(span_context: SpanContext) -> bool:
        return False

    def _extract_tags_from_span(self, span: Any) -> dict[str, str]:
        return dict(span.attributes)

    def _extract_annotations_from_events(self, events: Sequence[Event] | None) -> list[dict[str, Any]] | None:
        return [{"timestamp": microseconds(event.timestamp), "value": event.name} for event in events or ()]


_ENCODER = _Encoder()


def microseconds(nanoseconds: int) -> int:
    """Round to Zipkin's unit, as the package rounds a span's own times."""
    return (nanoseconds + 500) // 1000
