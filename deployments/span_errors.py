"""Writes an error onto the span of the work that failed."""

from __future__ import annotations

from speech.errors import SpeechError
from tracing import NonRecordingSpan, Span, vocabulary


def record_error(span: Span | NonRecordingSpan, error: SpeechError) -> None:
    """Tag a span with an error: type, code, status, the service at fault, and the message, always our own words."""
    span.fail(error.type, error.message, error.status)
    span.tag(vocabulary.ERROR_CODE, error.code)
    span.tag(vocabulary.ERROR_SERVICE, error.service)
