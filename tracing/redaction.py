"""Redaction by an allow-list over the finished Zipkin span, applied before any byte is stored or sent.

It fails closed. A tag leaves if its key is in the vocabulary and its whole value has that key's shape. An annotation
leaves if it is in the closed list. A name leaves if it is a stage, an engine's phase, or a method and a route that we
serve. A service must be one of ours. Anything else is taken out and counted. Two things are replaced instead, because
Zipkin needs them: the span's name, and the tag `error`, by which failed spans are found and counted.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from tracing import vocabulary
from tracing.allow_list import TAG_SHAPES
from tracing.export_settings import Allow

_TRACE_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_KINDS = frozenset({"SERVER", "CLIENT", "PRODUCER", "CONSUMER"})
_SLOT = r"(?:-?\d{1,9}(?:\.\d{1,3})?|[a-z][a-z0-9_\-]{0,23})"
_UNNAMED = "UNNAMED"
_LATEST = 2**53  # microseconds; later than any clock of ours, and exact in JSON everywhere


class Redaction:
    """The allow-list. It holds no state, so any thread may use it.

    Args:
        allow: What may leave beyond the vocabulary.
        services: The names that an endpoint may have.
    """

    def __init__(self, allow: Allow = Allow(), services: Iterable[str] = vocabulary.SERVICES) -> None:
        self._services = frozenset(services)
        self._routes = vocabulary.ROUTES | allow.routes
        self._names = (
            frozenset(vocabulary.STAGES)
            | vocabulary.PHASES
            | vocabulary.BACKGROUND
            | vocabulary.ASIDE
            | vocabulary.INNER
            | vocabulary.ACTIONS
            | allow.span_names
            | {vocabulary.UNKNOWN_ROUTE}
            | {f"{method} {route}" for method in vocabulary.METHODS for route in self._routes}
        )
        self._values = allow.values
        templates = [_SLOT.join(re.escape(part) for part in message.split("{}")) for message in allow.error_messages]
        self._error_message = re.compile("|".join(templates)) if templates else None

    def redact(self, spans: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        """Redact the spans of a trace.

        Args:
            spans: In Zipkin v2 JSON. The dicts are not changed.

        Returns:
            The spans as they may leave, and how many things were taken out of them or replaced. A span without
            valid ids and times is left out whole.
        """
        taken: list[str] = []  # kinds of things; only their count leaves
        cleaned = [self._span(span, taken) for span in spans]
        return [span for span in cleaned if span is not None], len(taken)

    def _span(self, span: dict[str, Any], taken: list[str]) -> dict[str, Any] | None:
        if not isinstance(span, dict) or not _has_identity(span):
            taken.append("span")
            return None
        clean: dict[str, Any] = {"traceId": span["traceId"], "id": span["id"]}
        if _matches(_SPAN_ID, span.get("parentId")):
            clean["parentId"] = span["parentId"]
        if _among(_KINDS, span.get("kind")):
            clean["kind"] = span["kind"]
        clean["name"] = span.get("name")
        if not _among(self._names, clean["name"]):
            clean["name"] = _UNNAMED
            taken.append("name")
        clean["timestamp"], clean["duration"] = span["timestamp"], span["duration"]
        self._endpoints(span, clean, taken)
        tags = span.get("tags")
        if tags:
            clean["tags"] = self._tags(tags, taken)
        annotations = span.get("annotations")
        if annotations:
            clean["annotations"] = _annotations(annotations, taken)
        return clean

    def _endpoints(self, span: dict[str, Any], clean: dict[str, Any], taken: list[str]) -> None:
        local = self._endpoint(span.get("localEndpoint"), taken)
        if local is not None:
            clean["localEndpoint"] = local
        remote = self._endpoint(span.get("remoteEndpoint"), taken)
        if remote is not None:  # the name only: a peer's address may be a person's
            clean["remoteEndpoint"] = {"serviceName": remote["serviceName"]}

    def _endpoint(self, endpoint: object, taken: list[str]) -> dict[str, str] | None:
        if endpoint is None:
            return None
        if not isinstance(endpoint, dict) or not _among(self._services, endpoint.get("serviceName")):
            taken.append("endpoint")
            return None
        clean = {"serviceName": endpoint["serviceName"]}
        for key in ("ipv4", "ipv6"):
            if key in endpoint and _is_address(endpoint[key], key):
                clean[key] = endpoint[key]
        return clean

    def _tags(self, tags: object, taken: list[str]) -> dict[str, str]:
        if not isinstance(tags, dict):
            taken.append("tags")
            return {}
        clean = {}
        for key, value in tags.items():
            if key == vocabulary.ERROR:
                clean[key] = self._error(value, tags, taken)
            elif self._may_leave(key, value):
                clean[key] = value
            else:
                taken.append("tag")
        return clean

    def _may_leave(self, key: object, value: object) -> bool:
        if key == vocabulary.HTTP_ROUTE:
            return _among(self._routes, value)
        shape = TAG_SHAPES.get(key) if isinstance(key, str) else None
        if shape is None or not _matches(shape, value):
            return False
        return key not in self._values or value in self._values[key]

    def _error(self, value: object, tags: dict[str, Any], taken: list[str]) -> str:
        """Return the message if it is known, else the error's type and code, which are words of ours."""
        if isinstance(value, str) and self._error_message and self._error_message.fullmatch(value):
            return value
        known = [
            tags[key] for key in (vocabulary.ERROR_TYPE, vocabulary.ERROR_CODE) if self._may_leave(key, tags.get(key))
        ]
        if value not in known:
            taken.append("error")
        return ": ".join(known) or "error"


def pseudonym(user_id: str, key: bytes) -> str:
    """Hash a user's id for the tag `user.hash`, the only form in which it leaves.

    Args:
        user_id: Often a phone number, so a plain hash could be reversed by trying all of them.
        key: A secret of at least 16 random bytes.

    Returns:
        16 hex digits of HMAC-SHA256.

    Raises:
        ValueError: The key is too short.
    """
    if len(key) < 16:
        raise ValueError("the key for user hashes must have at least 16 random bytes, or ids can be guessed back")
    return hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()[:16]


def _annotations(annotations: object, taken: list[str]) -> list[dict[str, Any]]:
    clean = []
    for annotation in annotations if isinstance(annotations, list) else ():
        entry = annotation if isinstance(annotation, dict) else {}
        at, value = entry.get("timestamp"), entry.get("value")
        if _among(vocabulary.ANNOTATIONS, value) and _is_time(at):
            clean.append({"timestamp": at, "value": value})
        else:
            taken.append("annotation")
    return clean


def _has_identity(span: dict[str, Any]) -> bool:
    return (
        _matches(_TRACE_ID, span.get("traceId"))
        and _matches(_SPAN_ID, span.get("id"))
        and _is_time(span.get("timestamp"))
        and _is_time(span.get("duration"))
    )


def _matches(shape: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and shape.fullmatch(value) is not None


def _among(closed: frozenset[str], value: object) -> bool:
    return isinstance(value, str) and value in closed


def _is_time(value: object) -> bool:
    return type(value) is int and 0 < value < _LATEST


def _is_address(value: object, key: str) -> bool:
    try:
        return isinstance(value, str) and f"ipv{ipaddress.ip_address(value).version}" == key
    except ValueError:
        return False
