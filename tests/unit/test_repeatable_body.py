"""A request's body for a second try: as it was, while it is small enough to keep."""

from __future__ import annotations

import asyncio

from deployments.ingress.repeatable_body import MOST_BYTES, RepeatableBody


def body_of(sizes):
    messages = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
    messages += [{"type": "http.disconnect"}]
    queue = iter(messages)

    async def receive():
        return next(queue)

    return RepeatableBody(receive), messages


async def read(receive, count):
    return [await receive() for _ in range(count)]


def test_a_second_try_reads_what_the_first_has_read_and_then_the_rest():
    body, messages = body_of([3, 5, 7])

    async def main():
        assert await read(body.from_the_start(), 2) == messages[:2]
        return await read(body.from_the_start(), 4)

    assert asyncio.run(main()) == messages
    assert body.whole


def test_a_body_too_large_to_keep_is_still_read_to_its_end():
    body, messages = body_of([MOST_BYTES // 2] * 5)
    assert asyncio.run(read(body.from_the_start(), 6)) == messages
    assert not body.whole


def test_a_body_of_the_most_bytes_is_kept():
    body, messages = body_of([MOST_BYTES // 2] * 2)
    assert asyncio.run(read(body.from_the_start(), 2)) == messages[:2]
    assert body.whole
