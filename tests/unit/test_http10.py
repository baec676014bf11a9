"""An answer to an HTTP/1.0 client leaves whole, with its length; any other is left as it is."""

import asyncio

import pytest

from deployments.ingress.http10 import WholeAnswers


def sent(http_version: str, *parts: bytes, headers=()) -> list[dict]:
    messages = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        for number, data in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": data, "more_body": number < len(parts)})

    async def send(message):
        messages.append(message)

    asyncio.run(WholeAnswers(app)({"type": "http", "http_version": http_version}, None, send))
    return messages


def test_parts_are_collected():
    start, body = sent("1.0", b"ab", b"", b"cde", headers=[(b"content-type", b"audio/wav")])
    assert start["headers"] == [(b"content-type", b"audio/wav"), (b"content-length", b"5")] and start["status"] == 200
    assert body == {"type": "http.response.body", "body": b"abcde"}


def test_an_empty_answer_has_a_length_too():
    assert sent("1.0", b"")[0]["headers"] == [(b"content-length", b"0")]


@pytest.mark.parametrize("version, headers", [("1.0", [(b"Content-Length", b"3")]), ("1.1", []), ("2", [])])
def test_what_needs_nothing_is_passed_on(version, headers):
    messages = sent(version, b"a", b"bc", headers=headers)
    assert [message.get("body") for message in messages] == [None, b"a", b"bc"]
    assert messages[0]["headers"] == headers
