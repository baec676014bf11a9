"""The beginning of a WebSocket session: its caller, and the traces that it makes.

A session is no trace: it may last an hour, and nothing of it could be seen before. Each of its utterances is one, and
so is each `session.config`, which finds a voice. The tag `session.id` joins them. So the handshake's `traceparent` or
B3 headers name no parent; their word on sampling counts for all of the session. An utterance's parent comes with its
first `input.text`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol
from urllib.parse import urlsplit

from starlette.types import Scope

from access.authentication import Authenticator, Principal
from access.authorization import AccessControl, authorize
from deployments.ingress.context import RequestContext
from deployments.ingress.live_flow import ReplicaFlow
from deployments.settings import Cors
from speech.errors import RoleMissing
from tracing import Incoming, extract, vocabulary

_METHOD = "GET"  #: a handshake's, by which a route's roles are found
NAME = "WS"  #: in traces, where GET would say that a page was read


class Traces(Protocol):
    """Opens and submits traces; `tracing_middleware.TracingMiddleware` is one."""

    authenticator: Authenticator
    access_control: AccessControl

    def open(
        self, method: str, route: str, incoming: Incoming, caller: Principal, started_ns: int
    ) -> RequestContext: ...

    def submit(self, ctx: RequestContext, status: int, quiet: bool) -> bool: ...

    def trace_url(self, ctx: RequestContext) -> str | None: ...


class Handshake:
    """The client of a session, as far as it is known.

    Args:
        scope: the WebSocket's.
        middleware: opens and submits the traces.
        route: the session's route.

    Attributes:
        session_id: joins the traces; 16 hex digits.
        caller: the principal, by the handshake's headers or by `identify`.
        flow: the connection.
    """

    def __init__(self, scope: Scope, middleware: Traces, route: str) -> None:
        self._middleware = middleware
        self._route = route
        self.flow: ReplicaFlow
        self._headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        self._peer = (scope.get("client") or (None,))[0]
        self._sampling = replace(extract(self._headers), parent=None)
        self.session_id = secrets.token_hex(8)
        self._shown = dict(self._headers)  # the headers by which the caller is known
        self.caller = middleware.authenticator.identify(self._shown, self._peer)

    @property
    def caller_name(self) -> str:
        """An opaque name of the caller, to count its sessions by."""
        return self.caller.key or f"at {self.caller.address}"

    def identify(self, api_key: str) -> None:
        """Take the key of the first message: a browser's WebSocket has no headers of a page's choice."""
        self._shown = {name: value for name, value in self._headers if name not in ("authorization", "x-api-key")}
        self._shown["x-api-key"] = api_key

    @property
    def shows_a_key(self) -> bool:
        """The handshake's headers have a key, right or wrong."""
        return self.caller.key is not None or self.caller.refused is not None

    def authorize(self) -> None:
        """Check that the caller may speak; its key may have been revoked since. Raises NotAuthorized or RoleMissing."""
        self.caller = self._middleware.authenticator.identify(self._shown, self._peer)
        if self._middleware.access_control.required:
            authorize(self.caller, _METHOD, self._route)

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Count one utterance against the caller's limits while it is spoken. Raises RateLimited."""
        async with self._middleware.access_control.enter(self.caller, _METHOD, self._route):
            yield

    def check_origin(self, cors: Cors) -> None:
        """Refuse a web page of another origin that is not allowed: browsers let every page open a WebSocket.

        Raises:
            RoleMissing: the page's origin is not allowed.
        """
        headers = dict(self._headers)
        origin = headers.get("origin")
        if origin is None or "*" in cors.allowed_origins or origin in cors.allowed_origins:
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise RoleMissing(
                "Web pages of this origin may not open sessions. The operator of this service can allow it in "
                "`cors.allowed_origins`.",
                code="origin_not_allowed",
            )

    def open(
        self, event: str, *, index: int | None = None, traceparent: str | None = None, started_ns: int | None = None
    ) -> RequestContext:
        """Open a trace of this session.

        Args:
            event: what it tells: a value of `vocabulary.SESSION_EVENT`.
            index: the utterance's.
            traceparent: the caller's span, as W3C writes it.
            started_ns: when it began, ns since the epoch; now by default.
        """
        incoming = self._sampling
        if traceparent is not None:
            named: Incoming = extract({"traceparent": traceparent})
            incoming = replace(named, sampling_state=self._sampling.sampling_state)
        ctx = self._middleware.open(NAME, self._route, incoming, self.caller, started_ns or time.time_ns())
        ctx.root.tags(
            {
                vocabulary.SESSION_ID: self.session_id,
                vocabulary.SESSION_EVENT: event,
                vocabulary.UTTERANCE_INDEX: index,
            }
        )
        return ctx

    def submit(self, ctx: RequestContext) -> None:
        """Finish a trace, with the status that an HTTP answer would have."""
        self._middleware.submit(ctx, ctx.error.status if ctx.error is not None else 200, quiet=False)

    def trace_url(self, ctx: RequestContext) -> str | None:
        """Return where a trace is to be found, if it is kept for certain."""
        return self._middleware.trace_url(ctx)
