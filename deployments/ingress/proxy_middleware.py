"""Runs inside Serve's HTTP proxy, in front of the ingress: what the proxy answers by itself gets a trace and a cause.

When the ingress replica dies in mid-request, or there is none, the proxy answers, and the ingress's trace is lost
with it. This middleware sees that (no answer, or one in plain text without `X-Trace-Id`). A request for speech, or one
that only reads, it sends to another replica, once. Else it speaks for the ingress in a trace of one span, and gives the
client our error body instead of an empty one.

It holds the deadline too: the ingress counts from a request's arrival there, and neither counts nor answers when its
node is lost. The deadline comes as COSYGRAPH_DEADLINE_S, and the ingress tells when it gives a request a longer one.

It also removes the request headers by which a client could control Serve itself:

- `x-request-id`, which Serve writes into every log line of the request, in every replica;
- `x-request-timeout-seconds` and `x-request-disconnect-disabled`, which would end requests behind the ingress's back,
  or keep them running when no client waits any more;
- the model and session ids by which Serve would pick replicas.

And it sends the request's body along with its headers (`body_prefetch.py`).

Serve finds it by the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which the launcher sets to
`deployments.ingress.proxy_middleware:middlewares`. Its tracing settings come as JSON in COSYGRAPH_TRACING; without them
it answers and counts, and keeps no trace.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping
from functools import partial

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.authentication import Authenticator
from config.routes import LIVE, SPEECH
from deployments import place, serve_log, trace_error_messages
from deployments.ingress import arrival, body_prefetch, live_proxy
from deployments.ingress.repeatable_body import RepeatableBody
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import BROKEN_OFF, DEADLINE, send_error
from deployments.safe_traceback import safe_traceback
from deployments.settings import Tracing
from deployments.span_errors import record_error
from speech.dialects import DIALECTS
from speech.errors import RETRY_AFTER_RESTART_S, DeadlineExceeded, SpeechError, StageUnavailable, path_not_found
from tracing import extract, vocabulary
from tracing.routes import Routes

log = logging.getLogger("ray.serve")

SETTINGS_VARIABLE = "COSYGRAPH_TRACING"
DEADLINE_VARIABLE = "COSYGRAPH_DEADLINE_S"
#: How much longer than the ingress itself the proxy waits for the ingress's own "deadline exceeded".
GRACE_S = 0.75
#: Headers that Serve obeys; it reads them with - and _ alike.
SERVE_HEADERS = frozenset(
    {
        "x-request-id",
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
        "serve-multiplexed-model-id",
        "x-session-id",
    }
)
_ROUTES = Routes(vocabulary.ROUTES)
_OWN_PAGES = ("/-/healthz", "/-/routes")
#: Statuses that Serve's proxy answers by itself, always as plain text: no application, timed out, died, no replica.
_OWN_STATUS = frozenset({404, 408, 429, 500, 503})


def middlewares() -> list[Middleware]:
    """Return the middleware that Serve's proxy puts around itself."""
    serve_log.attach()
    text = os.environ.get(SETTINGS_VARIABLE)
    tracing = Tracing.model_validate_json(text) if text else Tracing()
    deadline_s = float(os.environ.get(DEADLINE_VARIABLE) or math.inf)
    return [Middleware(ProxyMiddleware, tracing=tracing, deadline_s=deadline_s)]


class ProxyMiddleware:
    """ASGI middleware around the whole of Serve's proxy.

    Args:
        app: Serve's proxy.
        tracing: what is kept of the traces that are made here.
        deadline_s: seconds from a request's arrival to the start of its answer, where the ingress says nothing else.

    Attributes:
        answered_here: requests that the proxy answered by itself.
        repeated: requests that were sent to another ingress replica.
        cut_here: answers that broke off.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing, deadline_s: float = math.inf) -> None:
        self._app = app
        self._tracing = tracing
        self._deadline_s = deadline_s
        self._tracer = place.tracer(vocabulary.INGRESS)
        self._node = place.node_id()
        self._recorder: TraceRecorder | None = None
        self._authenticator = Authenticator(tracing.keys_file)
        self.answered_here = self.repeated = self.cut_here = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and _route(scope["path"]) == LIVE:
            await self._relay(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in _OWN_PAGES:
            await self._app(scope, receive, send)
            return
        started, began = time.time_ns(), time.monotonic()
        route = _route(scope["path"])
        body = RepeatableBody(receive)
        until = began + self._deadline_s + GRACE_S if route else math.inf
        answer = _WatchedAnswer(send, began, until)
        await self._try(scope, body, answer, arrival.Arrival(self._node, started))
        if answer.lost and body.whole and _may_repeat(scope["method"], route) and time.monotonic() < answer.until:
            self.repeated += 1
            log.warning("an ingress replica was lost with a request; another one gets it (%d so far)", self.repeated)
            answer = _WatchedAnswer(send, began, answer.until)
            await self._try(
                scope, body, answer, arrival.Arrival(self._node, started, waited_s=time.monotonic() - began)
            )
        # Where the client has left there is nothing to answer, and the ingress, which was told, has written its trace.
        if answer.late or answer.own or answer.lost:
            error = _late() if answer.late else _error(answer.status)
            await self._speak_for_the_ingress(scope, error, started, send)
        elif answer.cut and not answer.left:  # too late for another answer, but not for its trace
            self.cut_here += 1
            log.warning(
                "an answer broke off, trace %s (%d such answers so far)",
                self._trace(scope, _error(None), started),
                self.cut_here,
            )

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a WebSocket session on, and speak for the ingress where it is lost."""
        started = time.time_ns()

        def trace(error: SpeechError, session_id: str | None) -> str:
            self.cut_here += 1
            log.warning("a session lost its ingress (%d answers cut so far)", self.cut_here)
            more = {vocabulary.SESSION_ID: session_id, vocabulary.SESSION_EVENT: "lost"}
            return self._trace({**scope, "method": "WS"}, error, started, more)

        headers = [(name, value) for name, value in scope["headers"] if not _controls_serve(name)]
        await live_proxy.relay(self._app, {**scope, "headers": headers}, receive, send, _error, trace)

    async def _try(self, scope: Scope, body: RepeatableBody, answer: _WatchedAnswer, arrived: arrival.Arrival) -> None:
        """Send the request to a replica."""
        headers = [(name, value) for name, value in scope["headers"] if not _controls_serve(name)]
        scope = arrival.put({**scope, "headers": headers}, arrived)
        scope, receive = await body_prefetch.put(scope, body.from_the_start())
        try:
            await self._app(scope, partial(answer.receive, receive), answer.send)
        except Exception as error:  # Serve's; what it says could quote the request
            log.error("the proxy failed: %s", safe_traceback(error))

    async def _speak_for_the_ingress(self, scope: Scope, error: SpeechError, started_ns: int, send: Send) -> None:
        trace_id = self._trace(scope, error, started_ns)
        self.answered_here += 1
        log.warning(
            "the proxy answered %s %d by itself, trace %s (%d such answers so far)",
            error.type,
            error.status,
            trace_id,
            self.answered_here,
        )
        await send_error(error, send, ((b"x-trace-id", trace_id.encode()),))

    def _trace(
        self, scope: Scope, error: SpeechError, started_ns: int, more: Mapping[str, str | None] | None = None
    ) -> str:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        incoming = extract(headers)
        route = _route(scope["path"])
        name = f"{scope['method']} {route}" if route else vocabulary.UNKNOWN_ROUTE
        span = self._tracer.server(name, parent=incoming.parent, start_ns=started_ns)
        span.tags(**{vocabulary.HTTP_METHOD: scope["method"], vocabulary.HTTP_STATUS_CODE: str(error.status)})
        if route:
            span.tag(vocabulary.HTTP_ROUTE, route)
        span.tags(dict(more or {}))
        record_error(span, error)
        caller = self._authenticator.identify(dict(headers), (scope.get("client") or (None,))[0])
        trace_id = span.trace_id
        if self._recorder is None:  # most proxies never need one
            self._recorder = TraceRecorder(self._tracing, DIALECTS)
        self._recorder.finish(span.end(), incoming, caller)
        return trace_id


def _controls_serve(name: bytes) -> bool:
    return name.decode("latin-1").lower().replace("_", "-") in SERVE_HEADERS


def _is_plain(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether an answer is the proxy's own: plain text, without a trace id of the ingress."""
    values = {name.lower(): value for name, value in headers}
    return b"x-trace-id" not in values and values.get(b"content-type", b"").startswith(b"text/plain")


def _may_repeat(method: str, route: str | None) -> bool:
    """Tell whether a request may be made twice: one for speech leaves nothing behind."""
    return route is not None and (route in SPEECH or method in ("GET", "HEAD"))


def _route(path: str) -> str | None:
    """Return the route of ours that a path ends in, below any prefix; the path itself is the caller's text."""
    return _ROUTES.find_below(path)


class _WatchedAnswer:
    """Watches `receive` and `send`: the proxy's own answers are held back, any other passes.

    Args:
        send: to the client.
        began: when the request arrived, as `time.monotonic` tells it.
        until: when its answer must have begun.
    """

    def __init__(self, send: Send, began: float, until: float) -> None:
        self._send = send
        self._began = began
        self.until = until
        self.status: int | None = None
        self.own = False  #: the proxy's own answer
        self.left = False  #: the client has left
        self.late = False  #: the deadline has passed without an answer
        self._whole = self._broken_off = False

    @property
    def cut(self) -> bool:
        """The answer has begun and not ended, and the ingress did not break it off: the ingress died."""
        return self.status is not None and not self.own and not self._whole and not self._broken_off

    @property
    def lost(self) -> bool:
        """The replica died or can't be reached, and nothing of an answer has come."""
        return not self.left and not self.late and (self.status is None or (self.own and self.status == 500))

    async def receive(self, receive: Receive) -> Message:
        """Return the next message. Once the deadline has passed Serve is told that the client left, and cancels."""
        while (message := await self._before_the_deadline(receive)) is None:
            if self.status is None and time.monotonic() >= self.until:
                self.late = True
                return {"type": "http.disconnect"}
        self.left = self.left or message["type"] == "http.disconnect"
        return message

    async def _before_the_deadline(self, receive: Receive) -> Message | None:
        if self.status is not None or self.until == math.inf:
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, self.until - time.monotonic())):
                return await receive()
        except TimeoutError:
            return None

    async def send(self, message: Message) -> None:
        if message["type"] == DEADLINE:
            self.until = self._began + message["deadline_s"] + GRACE_S
            return
        if self.late:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.own = self.status in _OWN_STATUS and _is_plain(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._whole = not message.get("more_body", False)
            if message.get(BROKEN_OFF):
                self._broken_off = True
                return
        if not self.own:
            await self._send(message)


def _late() -> SpeechError:
    return DeadlineExceeded(trace_error_messages.LATE_INGRESS, service=vocabulary.INGRESS)


def _error(status: int | None) -> SpeechError:
    if status == 404:
        return path_not_found()
    return StageUnavailable(
        trace_error_messages.LOST_INGRESS, retry_after_s=RETRY_AFTER_RESTART_S, service=vocabulary.INGRESS
    )
