"""Trace context on HTTP headers: B3 (single and multi) and W3C `traceparent`, in and out.

`extract` never raises. A malformed header counts as absent, so a good header beside a bad one is used. The edge cases
are a table in `docs/b3.md`, and each row is a test. If both families are well-formed, B3 wins: it can say more (debug,
a binding "no").

Why no library does it: `opentelemetry-propagator-b3` loses what the caller said. Debug becomes "sampled" and is not
sent on. A deferred decision becomes "not sampled" with multi headers and "sampled" with the single one. It ignores
`b3: 0` and a bare `X-B3-Sampled: 0`, lets a malformed `b3` hide good multi headers, accepts an all-zero trace id, and
takes header names of a plain dict as case-sensitive.

Sources: github.com/openzipkin/b3-propagation, www.w3.org/TR/trace-context (version 00).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

# Trace, span, sampling state, parent's span. The last two are optional, each without the other: Brave writes
# `T-S-P` while its decision is deferred.
_B3_IDS = re.compile(
    r"(?P<trace>[0-9a-f]{32}|[0-9a-f]{16})-(?P<span>[0-9a-f]{16})(-(?P<state>[01d]))?(-[0-9a-f]{16})?", re.IGNORECASE
)
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_TRACE_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}", re.IGNORECASE)
_SPAN_ID = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)


class SamplingState(enum.Enum):
    """The caller's sampling state, in the words of the B3 specification."""

    ACCEPT = "accept"
    DENY = "deny"  # B3 only: binding, nothing is exported
    DEBUG = "debug"  # B3 only: accept, and keep whatever the rate
    DEFER = "defer"  # the caller left the decision to the receiver


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
    """The trace context in a request's headers.

    Attributes:
        parent: The caller's span. None if this request starts its own trace.
        sampling_state: The caller's word on sampling. `traceparent` says ACCEPT or DEFER only.
        format: The header family that was used, `"b3"` or `"w3c"`. None if nothing usable came.
        w3c_unsampled: The caller sent `traceparent …-00`, which is advice and no order.
    """

    parent: SpanContext | None = None
    sampling_state: SamplingState = SamplingState.DEFER
    format: str | None = None
    w3c_unsampled: bool = False


def extract(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Incoming:
    """Read the caller's trace context.

    Args:
        headers: Names and values. Names are case-insensitive. A name may come several times, or its values joined
            by commas, as proxies join them: alike they count once, different they count as absent.

    Returns:
        What the headers said. Nothing that a client sends raises an error.
    """
    found = _relevant(headers)
    parent, state = _b3_single(found.get("b3"))
    if parent is None:  # nothing usable there, or a bare `b3: 0`, whose word counts over the other headers'
        parent, multi = _b3_multi(found)
        state = multi if state is SamplingState.DEFER else state
    if parent is not None:
        return Incoming(parent, state, "b3")
    w3c, sampled = _w3c(found.get("traceparent"))
    if w3c is None:
        return Incoming(None, state, "b3" if state is not SamplingState.DEFER else None)
    if state is not SamplingState.DEFER:  # a bare `b3: 0` beside a traceparent: its word, the other's ids
        return Incoming(w3c, state, "w3c", not sampled)
    return Incoming(w3c, SamplingState.ACCEPT if sampled else SamplingState.DEFER, "w3c", not sampled)


def inject(span_context: SpanContext, sampling_state: SamplingState) -> dict[str, str]:
    """Write the headers of a call that is made on a request's behalf.

    Args:
        span_context: The span that makes the call.
        sampling_state: What the callee is told. DEFER stays deferred in B3, which has a form for it. `traceparent`
            has none: its flag then says 01, "may have been recorded", which is true.

    Returns:
        B3 single, B3 multi and `traceparent`, all saying the same.
    """
    trace_id, span_id = f"{span_context.trace_id:032x}", f"{span_context.span_id:016x}"
    headers = {
        "b3": f"{trace_id}-{span_id}",
        "X-B3-TraceId": trace_id,
        "X-B3-SpanId": span_id,
        "traceparent": f"00-{trace_id}-{span_id}-{'00' if sampling_state is SamplingState.DENY else '01'}",
    }
    if sampling_state is SamplingState.DEBUG:
        headers["b3"] += "-d"
        headers["X-B3-Flags"] = "1"
    elif sampling_state is not SamplingState.DEFER:
        digit = "1" if sampling_state is SamplingState.ACCEPT else "0"
        headers["b3"] += f"-{digit}"
        headers["X-B3-Sampled"] = digit
    return headers


_NAMES = frozenset({"b3", "traceparent", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"})


def _relevant(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, str]:
    """Trace headers by lower-case name. A header that contradicts itself is left out."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found: dict[str, set[str]] = {}
    for name, value in pairs:
        name = name.lower()
        if name in _NAMES:  # no value of theirs has a comma in it, so a comma joins two headers (RFC 9110, 5.3)
            found.setdefault(name, set()).update(part for part in map(str.strip, value.split(",")) if part)
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _context(trace_id: str, span_id: str, sampled: bool) -> SpanContext | None:
    """Build a context. The conversion pads 64-bit trace ids on the left; all-zero ids are no ids."""
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
    state = _B3_STATES.get(match["state"] or "", SamplingState.DEFER)
    context = _context(match["trace"], match["span"], state is not SamplingState.DENY)
    return (context, state) if context else (None, SamplingState.DEFER)


def _b3_multi(found: dict[str, str]) -> tuple[SpanContext | None, SamplingState]:
    state = _B3_SAMPLED.get(found.get("x-b3-sampled", "").lower(), SamplingState.DEFER)
    if found.get("x-b3-flags") == "1":
        state = SamplingState.DEBUG
    trace_id, span_id = found.get("x-b3-traceid", ""), found.get("x-b3-spanid", "")
    if not _TRACE_ID.fullmatch(trace_id) or not _SPAN_ID.fullmatch(span_id):
        return None, state
    return _context(trace_id, span_id, state is not SamplingState.DENY), state


def _w3c(value: str | None) -> tuple[SpanContext | None, bool]:
    """Read `traceparent` as strictly as W3C asks: lower-case hex, no version ff, no longer version 00."""
    match = _TRACEPARENT.fullmatch(value or "")
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None, False
    sampled = bool(int(match["flags"], 16) & 1)
    return _context(match["trace"], match["span"], sampled), sampled
