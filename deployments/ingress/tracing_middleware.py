"""The outermost ASGI layer of the ingress: every HTTP request gets a trace, an id in its answer, and an end.

The trace is finished when the status is known. It is submitted before the first byte of the answer leaves, so that an
answered request cannot lose its trace to a crash; if the answer is streamed (`RequestContext.streaming`), before the
last byte leaves. Requests for health or docs are kept out of Zipkin unless they fail. `trace_recorder.py` decides what
becomes of a finished trace.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import closing

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.authentication import Authenticator, Principal
from access.authorization import AccessControl
from config.routes import UNTRACED
from deployments import place, trace_error_messages
from deployments.ingress import arrival, body_limits, body_prefetch
from deployments.ingress.context import RequestContext
from deployments.ingress.http10 import is_http10
from deployments.ingress.live_flow import ReplicaFlow
from deployments.ingress.live_handshake import Handshake
from deployments.ingress.metrics import Metrics
from deployments.ingress.subrequests import Subrequests
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.safe_traceback import safe_traceback
from speech.errors import Cancelled, DeadlineExceeded, SpeechError, StageUnavailable, internal_error
from tracing import Incoming, NonRecordingSpan, NoOpTracer, Span, Tracer, extract, vocabulary
from tracing.routes import Routes

log = logging.getLogger("ray.serve")

#: A key of the ASGI message that breaks an answer off: it tells `proxy_middleware.py` that there is a trace.
BROKEN_OFF = "cosygraph.broken_off"
#: The type of an ASGI message that tells this middleware of a request's other deadline, in seconds from its arrival.
DEADLINE = "cosygraph.deadline"
#: A trusted caller's `primary`: use that backend even while the fallback is in use. The watchdog tries it so.
LINE_HEADER = "x-cosygraph-line"


def _path(scope: Scope) -> str:
    """Return the path below the application's route prefix."""
    path: str = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
    return path or "/"


def _name(method: str, route: str | None) -> str:
    """Return a root span's name. An unknown path is the caller's text: it may be anything, so it is no name."""
    return f"{method} {route}" if route else vocabulary.UNKNOWN_ROUTE


def _tell_of_the_lost_one(root: Span | NonRecordingSpan, name: str, started_ns: int) -> None:
    """Add a span for the try that was lost with another replica. No CLIENT span: the ingress would call itself."""
    tags = {
        vocabulary.ERROR: trace_error_messages.LOST_INGRESS,
        vocabulary.ERROR_TYPE: StageUnavailable.type,
        vocabulary.ERROR_SERVICE: vocabulary.INGRESS,
    }
    root.add_child(name, started_ns, time.time_ns(), tags)


class TracingMiddleware:
    """Wraps the ingress's application.

    Args:
        app: the application.
        tracer: makes the root spans.
        recorder: decides whether a finished trace is kept.
        authenticator: tells who the caller is.
        routes: the paths that may stand in a trace.
        deadline_s: seconds from arrival to answer.
        trace_url: returns where people find a kept trace by its id, or None.
        access_control: admits callers; by default it asks for no keys and knows no limits.
        metrics: gets every finished request.

    Attributes:
        subrequests: opens traced requests inside others.
    """

    def __init__(
        self,
        app: ASGIApp,
        tracer: Tracer,
        recorder: TraceRecorder,
        authenticator: Authenticator,
        *,
        routes: Routes,
        deadline_s: float,
        trace_url: Callable[[str], str | None],
        access_control: AccessControl | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._app = app
        self._tracer = tracer
        self._no_op_tracer = NoOpTracer()
        self._routes = routes
        self._deadline_s = deadline_s
        self._recorder = recorder
        self.authenticator = authenticator
        self.access_control = access_control or AccessControl()
        self._metrics = metrics
        self._trace_url = trace_url
        self._proxy_clocks = arrival.ProxyClocks(place.node_id(), deadline_s)
        self._closing: set[asyncio.Task[None]] = set()
        self.subrequests = Subrequests(
            self._tracer_now,
            lambda ctx: recorder.user_hash(ctx.caller),
            lambda ctx, status: self.submit(ctx, status, quiet=False),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            handshake = Handshake(scope, self, self._routes.find(_path(scope)) or vocabulary.UNKNOWN_ROUTE)
            scope.setdefault("state", {})["handshake"] = handshake
            with closing(ReplicaFlow(scope, receive, send)) as handshake.flow:
                await self._app(scope, handshake.flow.receive, handshake.flow.send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        receive = body_prefetch.take(scope, receive)
        arrived = arrival.of(scope)
        ctx = self._open(scope, arrived)
        if arrived is not None:
            ctx.on_deadline = lambda deadline_s: send({"type": DEADLINE, "deadline_s": deadline_s})
        scope.setdefault("state", {})["context"] = ctx
        answer = _TracedSend(self, scope, ctx, send)
        try:
            async with self.access_control.enter(ctx.caller, scope["method"], _path(scope)):
                # All of it went by in the proxy: no stage is at fault.
                if arrived is not None and ctx.remaining_s() <= 0:
                    raise DeadlineExceeded(trace_error_messages.LATE_INGRESS, service=vocabulary.INGRESS)
                await self._app(scope, body_limits.limited(scope, receive, ctx), answer)
            if not answer.ended:  # Starlette just ends a stream whose client has left
                self._close_detached(answer)
        except asyncio.CancelledError:
            self._close_detached(answer)
            raise
        except Exception as error:
            if not isinstance(error, SpeechError):
                log.error("the ingress failed, trace %s: %s", ctx.trace_id, safe_traceback(error))
                error = internal_error()
            ctx.error = error
            if not answer.started:
                await send_error(error, answer)
            elif not answer.ended:
                await answer.break_off()

    def _open(self, scope: Scope, arrived: arrival.Arrival | None) -> RequestContext:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        incoming = extract(headers)
        caller = self.authenticator.identify(dict(headers), (scope.get("client") or (None,))[0])
        started = now = time.time_ns()
        if arrived is not None:
            started = self._proxy_clocks.started_ns(arrived, now)
        route = self._routes.find(_path(scope))
        ctx = self.open(scope["method"], route, incoming, caller, started)
        root = ctx.root
        if arrived is not None:
            root.tag(vocabulary.PROXY_WAIT_MS, round((now - started) / 1e6, 3))
            if arrived.waited_s:
                _tell_of_the_lost_one(root, _name(scope["method"], route), started)
        ctx.takes_chunks = not is_http10(scope)
        ctx.wants_primary = caller.trusted and dict(headers).get(LINE_HEADER, "").strip() == vocabulary.PRIMARY
        return ctx

    def open(
        self, method: str, route: str | None, incoming: Incoming, caller: Principal, started_ns: int
    ) -> RequestContext:
        """Open a trace.

        Args:
            method: of HTTP, or `WS`.
            route: the known one; None for an unknown path.
            incoming: what the caller says of tracing.
            caller: the principal.
            started_ns: when the request arrived, ns since the epoch.
        """
        tracer = self._tracer_now()
        root = tracer.server(_name(method, route), parent=incoming.parent, start_ns=started_ns)
        root.tag(vocabulary.HTTP_METHOD, method)
        if route:
            root.tag(vocabulary.HTTP_ROUTE, route)
        if user := self._recorder.user_hash(caller):
            root.tag(vocabulary.USER_HASH, user)
        ctx = RequestContext(tracer, root, self._deadline_s, started_ns, incoming, caller)
        ctx.route = route
        return ctx

    def _tracer_now(self) -> Tracer | NoOpTracer:
        return self._tracer if self._recorder.tracing else self._no_op_tracer

    def _close_detached(self, answer: _TracedSend) -> None:
        """Close the trace of a client that left, in a fresh context: Serve cancels tasks that share this one."""

        async def close() -> None:
            answer.ctx.error = answer.ctx.error or Cancelled("The client left before its answer.")
            answer.close(Cancelled.status)

        task = asyncio.get_running_loop().create_task(close(), context=contextvars.Context())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def submit(self, ctx: RequestContext, status: int, quiet: bool) -> bool:
        """Finish the trace; True if it was kept."""
        spans = ctx.finish(status)
        kept = not (quiet and status < 400) and self._recorder.finish(spans, ctx.incoming, ctx.caller)
        if self._metrics is not None and not (ctx.has_subrequests and status < 400):
            self._metrics.record(ctx, spans, status, kept)
        return kept

    def trace_url(self, ctx: RequestContext, kept: bool | None = None) -> str | None:
        """Return where people find the trace; None if it isn't kept.

        Args:
            ctx: the request.
            kept: None while the request goes on: then only a trace that will be kept for certain has a URL.
        """
        if kept is None:
            root = ctx.root.snapshot()
            kept = root is not None and self._recorder.would_keep(root, ctx.incoming, ctx.caller)
        return self._trace_url(ctx.trace_id) if kept else None


class _TracedSend:
    """Wraps `send`: closes the trace at the response's start, or at a stream's end, and adds headers."""

    def __init__(self, middleware: TracingMiddleware, scope: Scope, ctx: RequestContext, send: Send) -> None:
        self._middleware = middleware
        self._quiet = _path(scope) in UNTRACED
        self.ctx = ctx
        self._send = send
        self._closed = False
        self._status = 0
        self.started = self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.started:
            self.started, self._status = True, message["status"]
            kept = None if self.ctx.streaming else self.close(self._status)
            message = {**message, "headers": [*message.get("headers", ()), *self._headers(kept)]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            if self.ctx.broken_off:
                await self.break_off()
                return
            self.close(self._status)
            self.ended = True
        await self._send(message)

    async def break_off(self) -> None:
        """Close the trace and leave the answer, which has begun, without an end: its reader notices."""
        self.close(self._status)
        self.ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": True, BROKEN_OFF: True})

    def close(self, status: int) -> bool:
        """Submit the trace, once; True if it was kept."""
        if self._closed:
            return False
        self._closed = True
        return self._middleware.submit(self.ctx, status, self._quiet)

    def _headers(self, kept: bool | None) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-trace-id", self.ctx.trace_id.encode())]
        if url := self._middleware.trace_url(self.ctx, kept):
            headers.append((b"x-trace-url", url.encode()))
        if self.ctx.voice_fit:
            headers.append((b"x-voice-fit", self.ctx.voice_fit.encode()))
        return headers


async def send_error(error: SpeechError, send: Send, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an error as its JSON body, with its headers and `more` of them."""
    body = json.dumps(error.body(), ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
