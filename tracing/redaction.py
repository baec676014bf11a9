"""What may leave, and nothing else: an allow-list over the finished Zipkin span, applied before any byte is stored
or sent.

It fails closed. A tag leaves when its key is in the vocabulary and its whole value has that key's shape; an
annotation when it is in the closed list; a name when it is a stage, an engine phase or a route pattern. A service
must be one of ours. Anything else is taken out and counted. Two things are replaced instead of taken out, because
Zipkin needs them to be there: the span's name, and the tag `error`, by which failed spans are found and counted.
"""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Iterable

from tracing import vocabulary as words

_TRACE_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_KINDS = frozenset({"SERVER", "CLIENT", "PRODUCER", "CONSUMER"})
_SLOT = r"(?:-?\d{1,9}(?:\.\d{1,3})?|[a-z][a-z0-9_\-]{0,23})"
_UNNAMED = "UNNAMED"
_LATEST = 2**53  # microseconds; later than any clock of ours, and exact in JSON everywhere


class Redaction:
    """The allow-list.

    Args:
        error_messages: messages that may stand in the tag `error`, as templates: `{}` stands for one number or one
            lower-case word. Any other message is replaced by the span's `error.type`.
        services: names that endpoints may carry.
    """

    def __init__(self, error_messages: Iterable[str] = (), services: Iterable[str] = words.SERVICES) -> None:
        self._services = frozenset(services)
        templates = [_SLOT.join(re.escape(part) for part in message.split("{}")) for message in error_messages]
        self._error_message = re.compile("|".join(templates)) if templates else None
        self._count = 0
        self._lock = threading.Lock()

    def trace(self, spans: list[dict]) -> list[dict]:
        """The spans as they may leave. One without valid ids and times is left out whole."""
        cleaned = (self._span(span) for span in spans)
        return [span for span in cleaned if span is not None]

    def take_count(self) -> int:
        """Things taken out or replaced since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count

    def _took(self) -> None:
        with self._lock:
            self._count += 1

    def _span(self, span: dict) -> dict | None:
        if not isinstance(span, dict) or not _has_identity(span):
            self._took()
            return None
        clean = {"traceId": span["traceId"], "id": span["id"]}
        if _matches(_SPAN_ID, span.get("parentId")):
            clean["parentId"] = span["parentId"]
        if span.get("kind") in _KINDS:
            clean["kind"] = span["kind"]
        clean["name"] = span.get("name")
        if not _matches(words.SPAN_NAME, clean["name"]):
            clean["name"] = _UNNAMED
            self._took()
        clean["timestamp"], clean["duration"] = span["timestamp"], span["duration"]
        self._endpoints(span, clean)
        tags = self._tags(span.get("tags") or {})
        if tags:
            clean["tags"] = tags
        annotations = self._annotations(span.get("annotations") or ())
        if annotations:
            clean["annotations"] = annotations
        return clean

    def _endpoints(self, span: dict, clean: dict) -> None:
        local = self._endpoint(span.get("localEndpoint"))
        if local is not None:
            clean["localEndpoint"] = local
        remote = self._endpoint(span.get("remoteEndpoint"))
        if remote is not None:  # the name only: a peer's address may be a person's
            clean["remoteEndpoint"] = {"serviceName": remote["serviceName"]}

    def _endpoint(self, endpoint: dict | None) -> dict | None:
        if endpoint is None:
            return None
        if not isinstance(endpoint, dict) or endpoint.get("serviceName") not in self._services:
            self._took()
            return None
        clean = {"serviceName": endpoint["serviceName"]}
        for key in ("ipv4", "ipv6"):
            if key in endpoint and _is_address(endpoint[key], key):
                clean[key] = endpoint[key]
        return clean

    def _tags(self, tags: dict) -> dict[str, str]:
        clean = {}
        for key, value in tags.items():
            if key == words.ERROR:
                clean[key] = self._error(value, tags)
                continue
            shape = words.TAG_SHAPES.get(key)
            if shape is not None and isinstance(value, str) and shape.fullmatch(value):
                clean[key] = value
            else:
                self._took()
        return clean

    def _error(self, value: object, tags: dict) -> str:
        error_type = tags.get(words.ERROR_TYPE)
        known = error_type if _matches(words.TAG_SHAPES[words.ERROR_TYPE], error_type) else "error"
        if value == known:
            return known
        if isinstance(value, str) and self._error_message and self._error_message.fullmatch(value):
            return value
        self._took()
        return known

    def _annotations(self, annotations: Iterable[dict]) -> list[dict]:
        clean = []
        for annotation in annotations:
            at, value = annotation.get("timestamp"), annotation.get("value")
            if value in words.ANNOTATIONS and _is_time(at):
                clean.append({"timestamp": at, "value": value})
            else:
                self._took()
        return clean


def _has_identity(span: dict) -> bool:
    return (_matches(_TRACE_ID, span.get("traceId")) and _matches(_SPAN_ID, span.get("id"))
            and _is_time(span.get("timestamp")) and _is_time(span.get("duration")))


def _matches(shape: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and shape.fullmatch(value) is not None


def _is_time(value: object) -> bool:
    return type(value) is int and 0 < value < _LATEST


def _is_address(value: object, key: str) -> bool:
    try:
        return f"ipv{ipaddress.ip_address(value).version}" == key
    except ValueError:
        return False
