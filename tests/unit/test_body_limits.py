"""Bodies that are too slow or too large, through the gateway and whatever reads them."""

import asyncio
import time
from collections.abc import Iterable

import pytest
from starlette.requests import Request

from access.authentication import Authenticator
from deployments.ingress.body_limits import MAX_BYTES, MAX_HEAD_BYTES
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.settings import Tracing
from speech.dialects import DIALECTS
from tracing import Tracer
from tracing.routes import Routes

PART = bytes(1024 * 1024)


def answered(
    tmp_path, parts: Iterable[bytes | float], deadline_s: float = 5.0, after_s: float = 0.0, **head
) -> tuple[int, bytes]:
    """(status, body) of a request whose body comes in `parts`; a number is a pause. The app reads it all, waits for
    `after_s`, and watches for the client's leaving meanwhile."""

    async def app(scope, receive, send):
        body = await Request(scope, receive).body()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(after_s):
                await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    async def main():
        left, sent = iter([*parts, None]), []

        async def receive():
            part = next(left, 3600.0)
            while isinstance(part, float):
                await asyncio.sleep(part)
                part = next(left, 3600.0)
            return {"type": "http.request", "body": part or b"", "more_body": part is not None}

        async def send(message):
            sent.append(message)

        keeper = TraceRecorder(Tracing(spans_file=str(tmp_path / "spans")), DIALECTS)
        gateway = TracingMiddleware(
            app,
            Tracer("cosyvoice3-api"),
            keeper,
            Authenticator(None),
            routes=Routes({"/"}),
            deadline_s=deadline_s,
            trace_url=lambda trace_id: None,
        )
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            **head,
        }
        await gateway(scope, receive, send)
        return sent[0]["status"], sent[1]["body"]

    return asyncio.run(main())


def test_a_body_in_time_arrives_whole_and_the_wait_behind_it_has_no_limit(tmp_path):
    assert answered(tmp_path, [b"ab", 0.05, b"c"], deadline_s=0.5, after_s=0.8) == (200, b"3")


@pytest.mark.parametrize("parts", [[b"ab", 3600.0], [part for _ in range(1000) for part in (b"a", 0.02)]])
def test_a_body_that_dawdles_ends_at_the_deadline(tmp_path, parts):
    began = time.monotonic()
    status, body = answered(tmp_path, parts, deadline_s=0.3)
    assert status == 504 and b"upload_too_slow" in body and time.monotonic() - began < 5


def test_a_body_larger_than_any_request_is_not_read_to_its_end(tmp_path):
    parts = MAX_BYTES // len(PART)
    assert answered(tmp_path, [PART] * parts) == (200, str(MAX_BYTES).encode())
    status, body = answered(tmp_path, [*[PART] * parts, b"x", 3600.0])
    assert status == 400 and b"body_too_large" in body


@pytest.mark.parametrize(
    "large",
    [
        {"headers": [(b"x-big", bytes(MAX_HEAD_BYTES))]},
        {"headers": [(b"x", b"y")] * MAX_HEAD_BYTES},
        {"path": "/" * (MAX_HEAD_BYTES + 1)},
        {"query_string": bytes(MAX_HEAD_BYTES)},
    ],
)
def test_a_head_larger_than_any_request_needs_is_refused(tmp_path, large):
    status, body = answered(tmp_path, [3600.0], **large)
    assert status == 400 and b"head_too_large" in body
    assert answered(tmp_path, [], headers=[(b"x-big", bytes(MAX_HEAD_BYTES - 100))])[0] == 200
