"""The request's body on its way from the proxy to the ingress: nothing lost, nothing twice, nobody waited for."""

import asyncio
import time

import pytest

from deployments import early_body
from deployments.early_body import MOST_BYTES, MOST_S


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


def passed_on(client: Client, count: int) -> tuple[list[dict], int, float]:
    """What the ingress receives in so many calls; how many of them the proxy was asked for; how long `put` took."""
    async def run():
        began = time.monotonic()
        scope, rest = await early_body.put({"type": "http", "path": "/"}, client)
        took = time.monotonic() - began
        asked = 0

        async def proxy():
            nonlocal asked
            asked += 1
            return await rest()
        receive = early_body.take(scope, proxy)
        assert scope == {"type": "http", "path": "/"}
        return [await receive() for _ in range(count)], asked, took
    return asyncio.run(run())


def test_a_body_that_is_there_comes_with_the_headers():
    got, asked, _ = passed_on(Client((0, request(b"one", more=True)), (0, request(b"two")), (0, GONE)), 2)
    assert got == [request(b"onetwo"), GONE] and asked == 1


def test_a_request_without_a_body_has_an_empty_one():
    got, asked, _ = passed_on(Client((0, request(b"")), (0, GONE)), 2)
    assert got == [request(b""), GONE] and asked == 1


def test_a_slow_upload_is_not_held_up():
    client = Client((0, request(b"one", more=True)), (0.3, request(b"two", more=True)), (0, request(b"three")))
    got, asked, took = passed_on(client, 3)
    assert got == [request(b"one", more=True), request(b"two", more=True), request(b"three")] and asked == 2
    assert MOST_S <= took < 0.25


def test_an_upload_that_has_not_begun_comes_the_usual_way():
    got, asked, _ = passed_on(Client((0.1, request(b"late"))), 1)
    assert got == [request(b"late")] and asked == 1


@pytest.mark.parametrize("chunk", [MOST_BYTES // 2, MOST_BYTES, 3 * MOST_BYTES])
def test_of_a_large_body_the_beginning_comes_along(chunk):
    chunks = [bytes([n]) * chunk for n in range(4)]
    client = Client(*((0, request(body, more=True)) for body in chunks), (0, request(b"")))
    got, asked, _ = passed_on(client, 6 - max(1, MOST_BYTES // chunk))
    assert b"".join(message["body"] for message in got) == b"".join(chunks)
    assert MOST_BYTES <= len(got[0]["body"]) < MOST_BYTES + chunk and asked == len(got) - 1
    assert [message["more_body"] for message in got] == [True] * (len(got) - 1) + [False]


@pytest.mark.parametrize("before", [(), ((0, request(b"half", more=True)),)])
def test_a_client_that_leaves_meanwhile_has_left(before):
    got, _, _ = passed_on(Client(*before, (0, GONE)), len(before) + 1)
    assert got == [message for _, message in before] + [GONE]


def test_without_a_door_nothing_changes():
    client = Client((0, request(b"body")))
    assert early_body.take({"type": "http"}, client) is client
