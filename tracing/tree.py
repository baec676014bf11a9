"""Reads a trace back from Zipkin and draws it as a tree for a terminal.

POST /api/generate  200  cosyvoice3-api      812.4 ms  100 %  ██████████████████████████
├─ PREPROCESS_AUDIO      audio-service        21.7 ms    3 %  █
├─ EXTRACT_SPEAKER       embedding-service    40.2 ms    5 %   █
├─ GENERATE_MEL          tts-service         570.1 ms   70 %    ██████████████████         ◀ slowest stage
└─ VOCODE_WAV            vocoder-service     165.0 ms   20 %                      █████
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tracing import vocabulary

_BAR = 26
_RED, _YELLOW, _GREEN, _DIM, _BOLD, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


class TraceNotFound(Exception):
    """Zipkin lacks the trace or a part of it, or doesn't answer. The message says which, and what to do."""


def fetch(
    zipkin_url: str,
    trace_id: str,
    expect: int | None = None,
    timeout_s: float = 10.0,
    *,
    client: httpx.Client | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[dict[str, Any]]:
    """Read one trace from Zipkin. Waits for it, because Zipkin answers 202 before it stores.

    Args:
        zipkin_url: Base address, for example `http://127.0.0.1:9411`.
        trace_id: 32 hex digits.
        expect: How many spans it should have. None takes what the first answer has.
        timeout_s: How long to wait for it.
        client: The HTTP client to use; by default one that ignores proxies.
        clock: Seconds, monotonic.
        sleep: Waits between two requests.

    Returns:
        The spans in Zipkin v2 JSON.

    Raises:
        TraceNotFound: It is not there, or has fewer spans, after `timeout_s`.
    """
    url = f"{zipkin_url.rstrip('/')}/api/v2/trace/{trace_id}"
    if client is None:
        with httpx.Client(timeout=timeout_s, trust_env=False) as own:
            return fetch(zipkin_url, trace_id, expect, timeout_s, client=own, clock=clock, sleep=sleep)
    until = clock() + timeout_s
    spans: list[dict[str, Any]] = []
    trouble = ""
    while True:
        try:
            answer = client.get(url)
            trouble = "" if answer.status_code in (200, 404) else f"Zipkin answered HTTP {answer.status_code}"
            spans = answer.json() if answer.status_code == 200 else spans
        except (httpx.HTTPError, ValueError) as error:
            trouble = f"Zipkin didn't answer as Zipkin does ({type(error).__name__})"
        if spans and len(spans) >= (expect or 1):
            return spans
        if clock() >= until:
            raise TraceNotFound(_why(zipkin_url, trace_id, len(spans), expect, timeout_s, trouble))
        sleep(0.1)


def _why(zipkin_url: str, trace_id: str, found: int, expect: int | None, timeout_s: float, trouble: str) -> str:
    if trouble:
        return f"{trouble} at {zipkin_url}. Is it Zipkin's address, and is it running? Try {zipkin_url}/health."
    if found:
        return (
            f"Trace {trace_id} has {found} of {expect} spans in Zipkin after {timeout_s:g} s. The others are late, "
            f"or were refused; the exporter's log says so."
        )
    return (
        f"Trace {trace_id} isn't in Zipkin at {zipkin_url} after {timeout_s:g} s. It was not kept by the sampling "
        f"rules, it still waits in the spool, or Zipkin has dropped it (MEM_MAX_SPANS)."
    )


@dataclass(frozen=True)
class _Row:
    span: dict[str, Any]
    label: str  # the name, after its branches
    depth: int


def render(spans: list[dict[str, Any]], *, colour: bool = False) -> str:
    """Draw the trace as lines of text: names, services, durations, shares of the root, a time bar, errors.

    Args:
        spans: In Zipkin v2 JSON. Spans whose parent is missing are drawn as further roots.
        colour: Use terminal colours.

    Returns:
        One line a span. The slowest stage (the longest SERVER or CLIENT span below the root) is marked.
    """
    if not spans:
        return "(no spans)"
    paint = _paint if colour else (lambda text, _: text)
    rows = _rows(spans)
    begin = min(span.get("timestamp", 0) for span in spans)
    whole = max(max(s.get("timestamp", 0) + s.get("duration", 0) for s in spans) - begin, 1)
    root_duration = rows[0].span.get("duration") or whole
    slowest = _slowest(rows)
    label_width = max(len(row.label) for row in rows)
    service_width = max(len(_service(row.span)) for row in rows)
    lines = [paint(f"trace {_clean(spans[0].get('traceId', '?'))}", _BOLD) + f"  {len(spans)} spans"]
    for row in rows:
        span, failed = row.span, vocabulary.ERROR in row.span.get("tags", {})
        duration = span.get("duration", 0)
        bar = _bar(span.get("timestamp", begin) - begin, duration, whole)
        line = (
            f"{paint(f'{row.label:<{label_width}}', _RED if failed else '')}  "
            f"{paint(f'{_service(span):<{service_width}}', _DIM)}  {duration / 1000:9.1f} ms  "
            f"{100 * duration / root_duration:3.0f} %  "
            f"{paint(bar, _RED if failed else _YELLOW if span is slowest else _GREEN)}"
        )
        if span is slowest:
            line += paint("  ◀ slowest stage", _YELLOW)
        if failed:
            line += paint(f"  ✗ {_error(span)}", _RED)
        lines.append(line.rstrip())
    return "\n".join(lines)


def _rows(spans: list[dict[str, Any]]) -> list[_Row]:
    ids = {span["id"] for span in spans}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for span in sorted(spans, key=lambda s: s.get("timestamp", 0)):
        parent = span.get("parentId")
        # A span that is its own parent (shared-span tracers write such) would never be reached from a root.
        children.setdefault(parent if parent in ids and parent != span["id"] else None, []).append(span)
    rows: list[_Row] = []

    def walk(span: dict[str, Any], before: str, branch: str, depth: int) -> None:
        rows.append(_Row(span, before + branch + _name(span), depth))
        below = children.get(span["id"], [])
        deeper = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        for i, child in enumerate(below):
            walk(child, deeper, "└─ " if i == len(below) - 1 else "├─ ", depth + 1)

    for root in children.get(None, []):
        walk(root, "", "", 0)
    reached = {id(row.span) for row in rows}
    # Spans that are each other's ancestors have no root above them; they are shown flat rather than not at all.
    return rows + [_Row(span, _name(span), 0) for span in spans if id(span) not in reached]


def _slowest(rows: list[_Row]) -> dict[str, Any] | None:
    stages = [row.span for row in rows if row.depth == 1 and row.span.get("kind") in ("SERVER", "CLIENT")]
    return max(stages, key=lambda span: span.get("duration", 0), default=None) if len(stages) > 1 else None


def _name(span: dict[str, Any]) -> str:
    """Zipkin keeps names in lower case; ours are shown as they were given."""
    name = _clean(span.get("name", "?"))
    method, blank, route = name.partition(" ")
    status = span.get("tags", {}).get(vocabulary.HTTP_STATUS_CODE, "")
    shown = f"{method.upper()} {route}" if blank else name.upper()
    return f"{shown}  {_clean(status)}" if status and blank else shown


def _service(span: dict[str, Any]) -> str:
    local = _clean(span.get("localEndpoint", {}).get("serviceName", "?"))
    remote = span.get("remoteEndpoint", {}).get("serviceName")
    return f"{local} → {_clean(remote)}" if remote and span.get("kind") == "CLIENT" else local


def _error(span: dict[str, Any]) -> str:
    tags = span["tags"]
    kind, message = _clean(tags.get(vocabulary.ERROR_TYPE, "")), _clean(tags[vocabulary.ERROR])
    return f"{kind}: {message}" if kind and message and kind != message else kind or message or "error"


def _bar(start_us: int, duration_us: int, whole_us: int) -> str:
    first = min(_BAR - 1, int(_BAR * start_us / whole_us))
    length = max(1, min(_BAR - first, round(_BAR * duration_us / whole_us)))
    return (" " * first + "█" * length).ljust(_BAR)


def _clean(text: str) -> str:
    """Replace unprintable characters, because a server's text must not control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def _paint(text: str, code: str) -> str:
    return f"{code}{text}{_PLAIN}" if code else text
