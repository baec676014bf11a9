"""Trace context on HTTP headers: B3 (single and multi) and W3C `traceparent`, in and out.

`extract` never raises and never trusts: what is malformed counts as absent, so a good header next to a bad one is
used. The edge cases are a table in `docs/b3.md`. Where both families are well-formed B3 wins, because its caller
speaks Zipkin's own language and can say more (debug, a binding "no").

Sources: github.com/openzipkin/b3-propagation, www.w3.org/TR/trace-context (version 00).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

_B3_IDS = re.compile(
    r"(?P<trace>[0-9a-f]{32}|[0-9a-f]{16})-(?P<span>[0-9a-f]{16})(-(?P<state>[01d])(-[0-9a-f]{16})?)?", re.IGNORECASE
)
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_TRACE_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}", re.IGNORECASE)
_SPAN_ID = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)


class SamplingState(enum.Enum):
    """What the caller said about sampling."""

    ACCEPT = "accept"
    DENY = "deny"  # B3 only: binding, nothing is exported
    DEBUG = "debug"  # B3 only: accept, and wants to be kept whatever the rate
    DEFER = "defer"  # nothing said: the receiver decides


_B3_STATES = {"0": SamplingState.DENY, "1": SamplingState.ACCEPT, "d": SamplingState.DEBUG, "D": SamplingState.DEBUG}
# `true` and `false` are what tracers before the written specification sent.
_B3_SAMPLED = {
    "0": SamplingState.DENY,
    "1": SamplingState.ACCEPT,
    "false": SamplingState.DENY,
    "true": SamplingState.ACCEPT,
}


@dataclass(frozen=True)
class Incoming:
    """What the caller's headers said.

    Attributes:
        parent: the caller's span, or None when this request starts its own trace.
        decision: the caller's word on sampling. `traceparent` says ACCEPT or DEFER only.
        format: the header family that was used, `"b3"` or `"w3c"`; None when nothing usable came.
        w3c_unsampled: the caller sent `traceparent …-00`: advice, not an order.
    """

    parent: SpanContext | None = None
    decision: SamplingState = SamplingState.DEFER
    format: str | None = None
    w3c_unsampled: bool = False


def extract(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Incoming:
    """Reads the caller's trace context. Header names are case-insensitive; nothing a client sends raises."""
    found = _relevant(headers)
    parent, decision = _b3_single(found.get("b3"))
    if parent is None:  # nothing usable there, or a bare `b3: 0`, whose word counts over the other headers'
        parent, second = _b3_multi(found)
        decision = second if decision is SamplingState.DEFER else decision
    if parent is not None:
        return Incoming(parent, decision, "b3")
    w3c, sampled = _w3c(found.get("traceparent"))
    if w3c is None:
        return Incoming(None, decision, "b3" if decision is not SamplingState.DEFER else None)
    if decision is not SamplingState.DEFER:  # a bare `b3: 0` beside a traceparent: its word, the other's ids
        return Incoming(w3c, decision, "w3c", not sampled)
    return Incoming(w3c, SamplingState.ACCEPT if sampled else SamplingState.DEFER, "w3c", not sampled)


def inject(span_context: SpanContext, decision: SamplingState) -> dict[str, str]:
    """Headers for a call made on a request's behalf: B3 single, B3 multi and `traceparent`, all saying the same.

    A deferred decision stays deferred in B3 (no sampling state). `traceparent` has no such word; its flag then says
    01, "may have been recorded", which is true.
    """
    trace_id, span_id = f"{span_context.trace_id:032x}", f"{span_context.span_id:016x}"
    headers = {
        "b3": f"{trace_id}-{span_id}",
        "X-B3-TraceId": trace_id,
        "X-B3-SpanId": span_id,
        "traceparent": f"00-{trace_id}-{span_id}-{'00' if decision is SamplingState.DENY else '01'}",
    }
    if decision is SamplingState.DEBUG:
        headers["b3"] += "-d"
        headers["X-B3-Flags"] = "1"
    elif decision is not SamplingState.DEFER:
        state = "1" if decision is SamplingState.ACCEPT else "0"
        headers["b3"] += f"-{state}"
        headers["X-B3-Sampled"] = state
    return headers


_NAMES = frozenset({"b3", "traceparent", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"})


def _relevant(headers) -> dict[str, str]:
    """Our headers by lower-case name. One that comes twice with different values is nobody's word: left out."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, str] = {}
    refused = set()
    for name, value in pairs:
        name = name.lower()
        if name not in _NAMES:
            continue
        value = value.strip()
        if found.setdefault(name, value) != value:
            refused.add(name)
    for name in refused:
        del found[name]
    return found


def _context(trace_id: str, span_id: str, sampled: bool) -> SpanContext | None:
    """64-bit trace ids are padded on the left by the conversion; all-zero ids are no ids."""
    trace, span = int(trace_id, 16), int(span_id, 16)
    if not trace or not span:
        return None
    return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(int(sampled)), trace_state=TraceState())


def _b3_single(value: str | None) -> tuple[SpanContext | None, SamplingState]:
    if not value:
        return None, SamplingState.DEFER
    if value in _B3_STATES:
        return None, _B3_STATES[value]
    match = _B3_IDS.fullmatch(value)
    if match is None:
        return None, SamplingState.DEFER
    decision = _B3_STATES.get(match["state"] or "", SamplingState.DEFER)
    context = _context(match["trace"], match["span"], decision is not SamplingState.DENY)
    return (context, decision) if context else (None, SamplingState.DEFER)


def _b3_multi(found: dict[str, str]) -> tuple[SpanContext | None, SamplingState]:
    decision = _B3_SAMPLED.get(found.get("x-b3-sampled", "").lower(), SamplingState.DEFER)
    if found.get("x-b3-flags") == "1":
        decision = SamplingState.DEBUG
    trace_id, span_id = found.get("x-b3-traceid", ""), found.get("x-b3-spanid", "")
    if not _TRACE_ID.fullmatch(trace_id) or not _SPAN_ID.fullmatch(span_id):
        return None, decision
    return _context(trace_id, span_id, decision is not SamplingState.DENY), decision


def _w3c(value: str | None) -> tuple[SpanContext | None, bool]:
    """Strict as the recommendation asks: lower-case hex, version ff refused, a longer version 00 refused."""
    match = _TRACEPARENT.fullmatch(value or "")
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None, False
    sampled = bool(int(match["flags"], 16) & 1)
    return _context(match["trace"], match["span"], sampled), sampled
