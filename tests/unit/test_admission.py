"""The ingress's door."""

import asyncio
import time

import pytest

from deployments.ingress.admission import Admission
from deployments.settings import Limits
from speech.errors import Overloaded


def test_beyond_the_limit_requests_wait_and_beyond_the_queue_they_are_refused():
    async def scenario():
        door = Admission(Limits(max_in_flight=1, max_waiting=1, max_wait_s=5))
        inside = asyncio.Event()
        leave = asyncio.Event()

        async def guest():
            async with door.enter(time.time_ns()):
                inside.set()
                await leave.wait()

        first = asyncio.create_task(guest())
        await inside.wait()
        second = asyncio.create_task(guest())
        await asyncio.sleep(0)
        assert (door.in_flight, door.waiting) == (1, 1)
        with pytest.raises(Overloaded) as refused:
            async with door.enter(time.time_ns()):
                pass
        assert refused.value.code == "queue_full" and refused.value.status == 503 and refused.value.retry_after_s >= 1
        leave.set()
        await asyncio.gather(first, second)
        assert (door.in_flight, door.waiting) == (0, 0)

    asyncio.run(scenario())


def test_waiting_has_an_end_and_leaves_nothing_behind():
    async def scenario():
        door = Admission(Limits(max_in_flight=1, max_waiting=4, max_wait_s=0.05))
        async with door.enter(time.time_ns()):
            with pytest.raises(Overloaded) as refused:
                async with door.enter(time.time_ns()):
                    pass
        assert refused.value.code == "queue_timeout" and door.waiting == 0
        async with door.enter(time.time_ns()):
            assert door.in_flight == 1

    asyncio.run(scenario())


def test_a_guest_that_is_cancelled_while_waiting_frees_its_place():
    async def scenario():
        door = Admission(Limits(max_in_flight=1, max_waiting=1, max_wait_s=5))
        async with door.enter(time.time_ns()):
            waiting = asyncio.create_task(door.enter(time.time_ns()).__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert door.waiting == 0

    asyncio.run(scenario())


def test_a_draining_door_is_closed_to_what_comes_since():
    async def scenario():
        door = Admission(Limits())
        came_ns = time.time_ns()
        door.drain()
        with pytest.raises(Overloaded) as refused:
            async with door.enter(time.time_ns()):
                pass
        assert refused.value.code == "draining" and door.draining
        async with door.enter(came_ns):
            assert door.in_flight == 1, "a request that came before may enter, again and again"

    asyncio.run(scenario())
