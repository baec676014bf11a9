"""Back pressure of a WebSocket through a proxy with queues that have no bound, as Serve's are; and a lost replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from config.routes import LIVE
from deployments.ingress import live_flow
from deployments.ingress.live_flow import WINDOW_BYTES, ProxyFlow, ReplicaFlow, size
from deployments.ingress.proxy_middleware import ProxyMiddleware
from deployments.settings import Limits, Tracing
from tests.helpers.live import CONFIG, Ingress
from tracing.sampling import SamplingSettings

SCOPE: dict[str, Any] = {
    "type": "websocket",
    "path": LIVE,
    "headers": [],
    "subprotocols": [],
    "query_string": b"",
    "client": ("127.0.0.1", 5),
    "extensions": {"websocket.http.response": {}},
    "asgi": {"version": "3.0"},
}


class Client:
    """A WebSocket's client, as its server shows it to ASGI: it takes frames while `reads` is set."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.given = asyncio.Queue[dict[str, Any]]()
        self.taken: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.read = 0
        self.given.put_nowait({"type": "websocket.connect"})
        for message in messages:
            self.send(message)

    def send(self, message: dict[str, Any]) -> None:
        self.given.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def receive(self) -> dict[str, Any]:
        message = await self.given.get()
        self.read += 1
        return message

    async def take(self, message: dict[str, Any]) -> None:
        if message["type"] != "websocket.accept":
            await self.reads.wait()
        self.taken.append(message)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(message["text"]) for message in self.taken if message.get("text")]

    async def until(self, done: Callable[[], Any], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not done():
                await asyncio.sleep(0.01)


class ServeLike:
    """Passes messages between a proxy and a replica in queues without a bound, and counts what lies in them."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self.most_in, self.most_out = 0, 0
        self.running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        inward, outward = asyncio.Queue[Any](), asyncio.Queue[Any]()
        held = {"in": 0, "out": 0}

        async def pull() -> None:
            while True:
                message = await receive()
                held["in"] += size(message)
                self.most_in = max(self.most_in, held["in"])
                inward.put_nowait(message)

        async def replica_receive() -> Any:
            message = await inward.get()
            held["in"] -= size(message)
            return message

        async def replica_send(message: Any) -> None:
            held["out"] += size(message)
            self.most_out = max(self.most_out, held["out"])
            outward.put_nowait(message)

        pulling = asyncio.create_task(pull())
        self.running = asyncio.create_task(self._replica({**scope, "state": {}}, replica_receive, replica_send))
        try:
            while True:
                getting = asyncio.ensure_future(outward.get())
                await asyncio.wait({getting, self.running}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done() and outward.empty():
                    getting.cancel()
                    return
                message = await getting
                await send(message)
                held["out"] -= size(message)
        finally:
            pulling.cancel()
            self.running.cancel()


@pytest.fixture
def ingress(tmp_path) -> Ingress:
    made = Ingress(tmp_path, limits=Limits(sessions={"stall_timeout_s": 1.0, "max_unspoken": 2000}))
    made.pipeline.seconds = 8.0
    return made


def proxied(serve: Any, tmp_path: Any) -> ProxyMiddleware:
    kept = Tracing(spans_file=tmp_path / "proxy.jsonl", sampling=SamplingSettings(ratio=1.0))
    return ProxyMiddleware(serve, kept)


def test_a_client_that_stops_reading_is_closed_and_fills_no_memory(ingress, tmp_path):
    async def main() -> None:
        serve = ServeLike(ingress.app)
        client = Client(CONFIG | {"split_granularity": "sentence", "stream_audio": True})
        session = asyncio.create_task(proxied(serve, tmp_path)(SCOPE, client.receive, client.take))
        await client.until(client.events)
        client.reads.clear()
        for _ in range(10):
            client.send({"type": "input.text", "text": "It is a very long sentence to say. So it is. "})
        client.send({"type": "input.done"})
        await client.until(lambda: ingress.sessions.counters()["sessions_ended_stalled"])
        assert serve.most_out < WINDOW_BYTES + 8 * 48_000 + 10_000, "one sentence above the window"
        assert ingress.admission.in_flight == 0 and len(ingress.pipeline.said) < 12
        client.reads.set()
        await client.until(lambda: session.done())
        assert client.taken[-1]["code"] == 1008 and client.events()[-1]["code"] == "stalled"

    asyncio.run(main())
    assert any(root.tags.get("error.type") == "cancelled" for root in ingress.roots())


def test_a_slow_reader_gets_everything(ingress, tmp_path):
    async def main() -> None:
        client = Client(CONFIG | {"stream_audio": True})
        asyncio.create_task(proxied(ServeLike(ingress.app), tmp_path)(SCOPE, client.receive, client.take))
        client.send({"type": "input.text", "text": "One sentence to say. Another one to say. A third one to say."})
        client.send({"type": "input.done"})
        while not any(event["type"] == "session.done" for event in client.events()):
            assert not any(message["type"] == "websocket.close" for message in client.taken), client.events()
            client.reads.clear()
            await asyncio.sleep(0.05)
            client.reads.set()
            await asyncio.sleep(0.01)
        audio = sum(len(message["bytes"]) for message in client.taken if message.get("bytes"))
        assert audio == pytest.approx(3 * 8 * 48_000, rel=0.1)

    asyncio.run(main())


def test_a_client_that_floods_is_not_read_any_more(ingress, tmp_path):
    async def main() -> None:
        ingress.pipeline.holds = 60
        serve = ServeLike(ingress.app)
        client = Client(CONFIG)
        for _ in range(200):
            client.send({"type": "input.text", "text": "word " * 2000})
            client.send({"type": "input.done"})
        session = asyncio.create_task(proxied(serve, tmp_path)(SCOPE, client.receive, client.take))
        for _ in range(30):
            client.send({"type": "input.text", "text": "It is said. " * 300})
            client.send({"type": "input.done"})
        await asyncio.sleep(1)
        assert serve.most_in < WINDOW_BYTES + 20_000 and client.given.qsize() > 100
        client.given.put_nowait({"type": "websocket.disconnect", "code": 1006})
        session.cancel()

    asyncio.run(main())


def test_a_lost_replica_is_told_of_with_a_trace(ingress, tmp_path):
    async def main() -> None:
        ingress.pipeline.holds = 60
        serve = ServeLike(ingress.app)
        client = Client(CONFIG, {"type": "input.text", "text": "It is said."}, {"type": "input.done"})
        session = asyncio.create_task(proxied(serve, tmp_path)(SCOPE, client.receive, client.take))
        await client.until(lambda: ingress.pipeline.said)
        serve.running.cancel()
        await client.until(session.done)
        event = client.events()[-1]
        assert event["error"]["type"] == "stage_unavailable" and client.taken[-1]["code"] == 1012
        assert event["retry_after_s"] == 5 and len(event["trace_id"]) == 32

    asyncio.run(main())


@pytest.mark.parametrize("status", [503, 500, None])
def test_where_no_replica_is_the_handshake_gets_our_error(tmp_path, status):
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if status:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"no"})

    async def main() -> None:
        client = Client()
        await proxied(serve, tmp_path)(SCOPE, client.receive, client.take)
        start, body = client.taken
        assert start["type"] == "websocket.http.response.start" and start["status"] == 503
        assert json.loads(body["body"])["error"]["type"] == "stage_unavailable"
        assert dict(start["headers"])[b"retry-after"] == b"5"

    asyncio.run(main())


def test_another_applications_websocket_passes_untouched(tmp_path):
    seen = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], live_flow.KEY in scope, await receive()))

    client = Client()
    asyncio.run(proxied(serve, tmp_path)({**SCOPE, "path": "/ui/queue"}, client.receive, client.take))
    assert seen == [("/ui/queue", False, {"type": "websocket.connect"})]


def test_a_connection_that_takes_nothing_is_cut():
    class Transport:
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    class Protocol:
        transport = Transport()

        async def send(self, message: Any) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        protocol = Protocol()
        flow = ProxyFlow(asyncio.Event().wait, protocol.send)
        await flow.send({"type": live_flow.OPEN, "session_id": "0" * 16, "stall_s": -4.9})
        await flow.send({"type": "websocket.send", "bytes": b"x"})
        assert protocol.transport.aborted and flow.gone

    asyncio.run(main())


def test_without_a_proxy_of_ours_nothing_is_counted():
    async def main() -> None:
        sent = []

        async def send(message: Any) -> None:
            sent.append(message)

        flow = ReplicaFlow({}, asyncio.Event().wait, send)
        await flow.open("0" * 16, 0.1)
        for _ in range(3):
            await flow.send({"type": "websocket.send", "bytes": bytes(WINDOW_BYTES)})
        assert not flow.counted and len(sent) == 3

    asyncio.run(main())


def test_what_hurries_is_counted_from_when_it_is_here_until_it_is_received():
    async def scenario() -> tuple[list[int], list[int]]:
        coming: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            raise AssertionError(message)

        async def come(*texts: str) -> None:
            for text in texts:
                coming.put_nowait({"type": "websocket.receive", "text": text})
            while not coming.empty():
                await asyncio.sleep(0)
            await asyncio.sleep(0)

        flow, told, seen = ReplicaFlow({}, coming.get, send), [], []
        coming.put_nowait({"type": "websocket.connect"})
        await flow.receive()
        await come("cancel")  # before anybody watches
        flow.watch(lambda message: message["text"] == "cancel", lambda: told.append(flow.hurried))
        await come("text", "cancel", "cancel")
        for _ in range(4):
            await flow.receive()
            seen.append(flow.hurried)
        flow.close()
        return told, seen

    assert asyncio.run(scenario()) == ([1, 2], [2, 2, 1, 0])
