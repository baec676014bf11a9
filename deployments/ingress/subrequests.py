"""Traced requests without an HTTP request of their own: an item of a batch, an utterance of a session.

A subrequest is a request like any other: it has a trace of its own with its own root span, its own outcome, and it
counts in the metrics. Its root's tag `request.parent` is the trace id of the request that it came in, so Zipkin finds
all of them by one search, `tagQuery=request.parent=…`. The request that they came in has a child span for each
(`SUBREQUEST`), which names its trace.

    async with subrequests.open(parent, "POST /v1/audio/speech/batch") as ctx:
        response = await api.speak(fields, None, ctx)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from deployments.ingress.context import RequestContext
from deployments.safe_traceback import safe_traceback
from speech.errors import Cancelled, SpeechError, internal_error
from tracing import NoOpTracer, Tracer, vocabulary

log = logging.getLogger("ray.serve")


class Subrequests:
    """Opens subrequests and sees their traces to their ends.

    Args:
        tracer: returns the tracer for root spans, by whether tracing is on now.
        user_hash: returns the only form in which a request's user leaves, or None.
        submit: finishes a request's trace with an HTTP status; True if it was kept (`TracingMiddleware.submit`).
    """

    def __init__(
        self,
        tracer: Callable[[], Tracer | NoOpTracer],
        user_hash: Callable[[RequestContext], str | None],
        submit: Callable[[RequestContext, int], bool],
    ) -> None:
        self._tracer = tracer
        self._user_hash = user_hash
        self._submit = submit

    @asynccontextmanager
    async def open(
        self, parent: RequestContext, name: str, *, deadline_s: float, tags: Mapping[str, Any] | None = None
    ) -> AsyncIterator[RequestContext]:
        """Open a subrequest; its trace is finished and submitted at the end of the block.

        The block sets `streaming`, `broken_off` or `error` as the answer of an HTTP request would. An exception that
        leaves it becomes the trace's error.

        Args:
            parent: the request that it came in. Its caller, its word on sampling and its deadline hold here too.
            name: the root span's name: a method and a route of `config/routes.py`.
            deadline_s: seconds from now to the end; never later than the parent's.
            tags: further tags of the root.

        Yields:
            Its context. When the block is over, `kept` says what became of its trace.

        Raises:
            SpeechError: the block's; any other exception is logged and becomes `internal_error()`.
        """
        parent.has_subrequests = True
        started = time.time_ns()
        tracer = self._tracer()
        root = tracer.server(name, parent=None, start_ns=started)
        method, _, route = name.partition(" ")
        root.tags(
            {
                vocabulary.HTTP_METHOD: method,
                vocabulary.HTTP_ROUTE: route,
                vocabulary.USER_HASH: self._user_hash(parent),
                vocabulary.REQUEST_PARENT: parent.trace_id,
                **(tags or {}),
            }
        )
        ctx = RequestContext(
            tracer, root, deadline_s, started, replace(parent.incoming, parent=None), parent.caller, parent.deadline_ns
        )
        ctx.route = route
        ctx.came_ns = parent.came_ns
        ctx.wants_primary = parent.wants_primary
        status = 200
        try:
            yield ctx
            if ctx.error is not None and not ctx.streaming:
                status = ctx.error.status
        except asyncio.CancelledError:
            ctx.error = ctx.error or Cancelled("The request was given up before its answer.")
            status = Cancelled.status
            raise
        except Exception as error:
            if not isinstance(error, SpeechError):
                log.error("a subrequest failed, trace %s: %s", ctx.trace_id, safe_traceback(error))
                ctx.error = internal_error()
                status = ctx.error.status
                raise ctx.error from error
            ctx.error = error
            status = 200 if ctx.streaming else error.status
            raise
        finally:
            ctx.kept = self._submit(ctx, status)
            parent.root.add_child(
                vocabulary.SUBREQUEST,
                started,
                time.time_ns(),
                {
                    vocabulary.SUBREQUEST_TRACE_ID: ctx.trace_id,
                    vocabulary.HTTP_STATUS_CODE: str(status),
                    **(tags or {}),
                },
            )
