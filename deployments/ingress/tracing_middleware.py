"""The outermost ASGI layer of the ingress: every HTTP request gets a trace, an id in its answer, and an ending.

The trace is finished when the status is known and submitted before the first byte of the answer leaves, so that an
answered request cannot lose its trace to a crash; of an answer that is streamed (`RequestContext.streaming`), before the last byte
leaves. Requests that are only looked at (health, docs) are kept out of
Zipkin unless they fail. What becomes of a finished trace is the keeper's to say.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.admission import AccessControl
from access.authentication import Authenticator
from deployments.ingress import body_limits, body_prefetch
from deployments.ingress.context import RequestContext
from deployments.ingress.metrics import Metrics
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.safe_traceback import safe_traceback
from speech.errors import Cancelled, InternalError, SpeechError
from tracing import NoOpTracer, Tracer, extract, vocabulary
from tracing.routes import Routes

log = logging.getLogger("ray.serve")

#: A key of the ASGI message that breaks an answer off: tells the door (`deployments/ingress/proxy_middleware.py`) that there is a trace.
BROKEN_OFF = "cosygraph.broken_off"
#: A trusted caller's `primary`: go there even while the fallback engine is in use. How the watchdog tries it.
LINE_HEADER = "x-cosygraph-line"
QUIET = frozenset({"/health", "/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/api/dialects", "/"})


def _path(scope: Scope) -> str:
    """The path below the application's route prefix."""
    return scope["path"].removeprefix(scope.get("root_path", "").rstrip("/")) or "/"


class TracingMiddleware:
    """Wraps `app`. `trace_url(id)` is where people find a kept trace, or None."""

    def __init__(
        self,
        app: ASGIApp,
        tracer: Tracer,
        keeper: TraceRecorder,
        callers: Authenticator,
        *,
        routes: Routes,
        deadline_s: float,
        trace_url: Callable[[str], str | None],
        entrance: AccessControl | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._app = app
        self._tracer = tracer
        self._silent = NoOpTracer()
        self._routes = routes
        self._deadline_s = deadline_s
        self._keeper = keeper
        self._callers = callers
        self._entrance = entrance or AccessControl()
        self._metrics = metrics
        self._trace_url = trace_url
        self._closing: set[asyncio.Task] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        receive = body_prefetch.take(scope, receive)
        run = self._open(scope)
        scope.setdefault("state", {})["run"] = run
        answer = _Answer(self, scope, run, send)
        try:
            async with self._entrance.enter(run.caller, scope["method"], _path(scope)):
                await self._app(scope, body_limits.limited(scope, receive, run), answer)
            if not answer.ended:  # Starlette ends a stream whose client has left without a word
                self._close_detached(answer)
        except asyncio.CancelledError:
            self._close_detached(answer)
            raise
        except Exception as error:
            if not isinstance(error, SpeechError):
                log.error("the ingress failed, trace %s: %s", run.trace_id, safe_traceback(error))
                error = InternalError(
                    "The service failed in a way it should not have; its log says where, under this trace's id."
                )
            run.error = error
            if not answer.started:
                await send_error(error, answer)
            elif not answer.ended:
                await answer.break_off()

    def _open(self, scope: Scope) -> RequestContext:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        incoming = extract(headers)
        caller = self._callers.identify(dict(headers), (scope.get("client") or (None,))[0])
        started = time.time_ns()
        path = _path(scope)
        route = self._routes.find(path)
        # An unknown path is the caller's text: it may be anything, so it is no span name.
        name = f"{scope['method']} {route}" if route else "unknown route"
        tracer = self._tracer if self._keeper.tracing else self._silent
        root = tracer.server(name, parent=incoming.parent, start_ns=started)
        root.tag(vocabulary.HTTP_METHOD, scope["method"])
        if route:
            root.tag(vocabulary.HTTP_ROUTE, route)
        if user := self._keeper.user_hash(caller):
            root.tag(vocabulary.USER_HASH, user)
        run = RequestContext(tracer, root, self._deadline_s, started, incoming, caller)
        run.route = route
        run.wants_primary = caller.trusted and dict(headers).get(LINE_HEADER, "").strip() == "primary"
        return run

    def _close_detached(self, answer: _Answer) -> None:
        """The client left. Serve cancels what shares this context, so the end is written in a fresh one."""

        async def close() -> None:
            answer.run.error = answer.run.error or Cancelled("The client left before its answer.")
            answer.close(Cancelled.status)

        task = asyncio.get_running_loop().create_task(close(), context=contextvars.Context())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def submit(self, run: RequestContext, status: int, quiet: bool) -> bool:
        """Finish the trace; True where it was kept."""
        records = run.finish(status)
        kept = not (quiet and status < 400) and self._keeper.finish(records, run.incoming, run.caller)
        if self._metrics is not None:
            self._metrics.tell(run, records, status, kept)
        return kept

    def trace_url(self, run: RequestContext, kept: bool | None = None) -> str | None:
        """Where people find the trace; None where it isn't kept, or not for certain while it goes on (`kept` None)."""
        if kept is None:
            root = run.root.preview()
            kept = root is not None and self._keeper.foresee(root, run.incoming, run.caller)
        return self._trace_url(run.trace_id) if kept else None


class _Answer:
    """`send`, watched: closes the trace at the response's start, or a stream's at its end, and adds headers."""

    def __init__(self, gateway: TracingMiddleware, scope: Scope, run: RequestContext, send: Send) -> None:
        self._gateway = gateway
        self._quiet = _path(scope) in QUIET
        self.run = run
        self._send = send
        self._closed = False
        self._status = 0
        self.started = self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.started:
            self.started, self._status = True, message["status"]
            kept = None if self.run.streaming else self.close(self._status)
            message = message | {"headers": [*message.get("headers", ()), *self._headers(kept)]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            if self.run.broken_off:
                await self.break_off()
                return
            self.close(self._status)
            self.ended = True
        await self._send(message)

    async def break_off(self) -> None:
        """An answer that has begun fails: it gets no end, so that whoever reads it notices. Closes the trace."""
        self.close(self._status)
        self.ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": True, BROKEN_OFF: True})

    def close(self, status: int) -> bool:
        if self._closed:
            return False
        self._closed = True
        return self._gateway.submit(self.run, status, self._quiet)

    def _headers(self, kept: bool | None) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-trace-id", self.run.trace_id.encode())]
        if url := self._gateway.trace_url(self.run, kept):
            headers.append((b"x-trace-url", url.encode()))
        return headers


async def send_error(error: SpeechError, send: Send, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """An error as its JSON body, with Retry-After where it has one, and `more` headers."""
    body = json.dumps(error.body(), ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
