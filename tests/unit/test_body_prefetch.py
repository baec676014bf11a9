"""The request's body on its way from the proxy to the ingress: nothing lost, nothing twice, nobody waited for."""

import asyncio
import time

import pytest

from deployments.ingress import body_prefetch
from deployments.ingress.body_prefetch import AGAIN_AFTER_S, MOST_BYTES, MOST_S, PATH


def request(body: bytes, more: bool = False) -> dict:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


class Client:
    """Sends messages, each after a pause in seconds; then nothing any more."""

    def __init__(self, *messages: tuple[float, dict]) -> None:
        self._messages = list(messages)
        self._due: asyncio.Task | None = None

    async def __call__(self) -> dict:
        if self._due is None:
            self._due = asyncio.create_task(self._next())
        message = await asyncio.shield(self._due)  # a server's receive can be given up and called again
        self._due = None
        return message

    async def _next(self) -> dict:
        if not self._messages:
            await asyncio.sleep(60)
        pause, message = self._messages.pop(0)
        await asyncio.sleep(pause)
        return message


def passed_on(client: Client, count: int, ours: bool = True) -> tuple[list[dict], float]:
    """What an application, ours or another, receives in so many calls; how long `put` took."""

    async def run():
        began = time.monotonic()
        scope, receive = await body_prefetch.put({"type": "http", "path": PATH}, client)
        took = time.monotonic() - began
        if ours:
            receive = body_prefetch.take(scope, receive)
            assert scope == {"type": "http", "path": PATH}
        return [await receive() for _ in range(count)], took

    return asyncio.run(run())


both = pytest.mark.parametrize("ours", [True, False], ids=["ours", "another's"])


def test_what_is_there_comes_with_the_headers():
    async def run():
        scope, _ = await body_prefetch.put(
            {"type": "http", "path": f"/prefix{PATH}"}, Client((0, request(b"one", more=True)), (0, request(b"two")))
        )

        async def proxy():
            raise AssertionError("the proxy need not be asked")

        return await body_prefetch.take(scope, proxy)()

    assert asyncio.run(run()) == request(b"onetwo")


@both
@pytest.mark.parametrize("body", [b"onetwo", b"one", b""])
def test_a_body_that_is_there(body, ours, monkeypatch):
    monkeypatch.setattr(body_prefetch, "AGAIN_AFTER_S", 0.05)
    parts = [(0, request(body[:3], more=len(body) > 3)), *([(0, request(body[3:]))] if len(body) > 3 else [])]
    assert passed_on(Client(*parts, (0.2, GONE)), 2, ours)[0] == [request(body), GONE]


def test_a_client_that_has_left_is_not_told_of_its_body():
    assert passed_on(Client((0, request(b"body")), (0, GONE)), 1, ours=False)[0] == [GONE]
    assert AGAIN_AFTER_S >= 0.5, "our own answers are mostly under way by then, and nothing is sent twice"


def test_another_path_is_left_alone():
    async def run():
        scope, client = {"type": "http", "path": "/api/other"}, Client()
        assert await body_prefetch.put(scope, client) == (scope, client)

    asyncio.run(run())


@both
def test_a_slow_upload_is_not_held_up(ours):
    client = Client((0, request(b"one", more=True)), (0.3, request(b"two", more=True)), (0, request(b"three")))
    got, took = passed_on(client, 3, ours)
    assert got == [request(b"one", more=True), request(b"two", more=True), request(b"three")]
    assert MOST_S <= took < 0.25


@both
def test_an_upload_that_has_not_begun_comes_the_usual_way(ours):
    got, _ = passed_on(Client((0.1, request(b"late", more=True)), (0, request(b"r"))), 2, ours)
    assert got == [request(b"late", more=True), request(b"r")]


@both
@pytest.mark.parametrize("chunk", [MOST_BYTES // 2, MOST_BYTES, 3 * MOST_BYTES])
def test_of_a_large_body_the_beginning_comes_along(chunk, ours):
    chunks = [bytes([n]) * chunk for n in range(4)]
    client = Client(*((0, request(body, more=True)) for body in chunks), (0, request(b"")))
    got, _ = passed_on(client, 6 - max(1, MOST_BYTES // chunk), ours)
    assert b"".join(message["body"] for message in got) == b"".join(chunks)
    assert MOST_BYTES <= len(got[0]["body"]) < MOST_BYTES + chunk
    assert [message["more_body"] for message in got] == [True] * (len(got) - 1) + [False]


@both
@pytest.mark.parametrize("before", [(), ((0, request(b"half", more=True)),)])
def test_a_client_that_leaves_meanwhile_has_left(before, ours):
    got, _ = passed_on(Client(*before, (0, GONE)), len(before) + 1, ours)
    assert got == [message for _, message in before] + [GONE]


def test_without_a_door_nothing_changes():
    client = Client((0, request(b"body")))
    assert body_prefetch.take({"type": "http"}, client) is client
