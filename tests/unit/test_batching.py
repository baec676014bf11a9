"""The batcher, on a clock of the test's own."""

import asyncio
import threading

import pytest

from deployments.stages.batched import tag_batch
from deployments.stages.batching import Batcher
from deployments.stages.compute_queue import Batched
from tracing import Tracer


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def advance(self, ms: float) -> None:
        self.ns += int(ms * 1e6)


class Gate:
    """A compute function whose batches wait until the test lets them go."""

    def __init__(self, clock: Clock, takes_ms: float = 100.0) -> None:
        self.batches: list[list] = []
        self.started = threading.Semaphore(0)
        self.released = threading.Semaphore(0)
        self._clock = clock
        self._takes_ms = takes_ms

    def __call__(self, items):
        self.batches.append(list(items))
        self.started.release()
        assert self.released.acquire(timeout=5), "the test never let this batch go"
        self._clock.advance(self._takes_ms)
        return [item * 10 for item in items]


async def submit(batcher: Batcher, item, deadline_ns: float = float("inf")):
    """The outcome of a request that went well; raises what it failed with."""
    outcome = await batcher.submit(item, deadline_ns)
    if isinstance(outcome.value, Exception):
        raise outcome.value
    return outcome


def num_waiting(batcher: Batcher) -> int:
    return sum(not request.future.done() for request in batcher._waiting)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def only_for_the_event(event: asyncio.Event, seconds: float) -> bool:
    return await event.wait()


async def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("never happened")


def test_a_lone_request_starts_at_once():
    async def scenario():
        clock = Clock()
        gate = Gate(clock)
        batcher = Batcher(gate, clock=clock)
        gate.released.release()
        done = await submit(batcher, 1)
        assert (done.value, done.size, done.wait_ms, done.compute_ms) == (10, 1, 0.0, 100.0)

    asyncio.run(scenario())


def test_a_backlog_of_eight_becomes_one_batch():
    async def scenario():
        clock = Clock()
        gate = Gate(clock)
        batcher = Batcher(gate, clock=clock, max_batch_size=8)
        tasks = [asyncio.create_task(submit(batcher, 0))]
        await until(lambda: gate.batches)
        tasks += [asyncio.create_task(submit(batcher, n)) for n in range(1, 9)]
        await settle()
        assert num_waiting(batcher) == 8
        gate.released.release(2)
        results = await asyncio.gather(*tasks)
        assert gate.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8]]
        assert [done.size for done in results] == [1] + [8] * 8
        assert all(done.dequeued_ns - done.arrived_ns == 100_000_000 for done in results[1:]), (
            "as the first batch ended"
        )
        assert len({done.batch_id for done in results[1:]}) == 1
        assert results[1].wait_ms == 100.0, "the backlog waited for the first batch's compute, no longer"

    asyncio.run(scenario())


def test_lingering_pays_only_while_arrivals_are_frequent():
    async def scenario(lone_before: int) -> tuple[bool, list[list]]:
        clock = Clock()
        gate = Gate(clock, takes_ms=100.0)
        batcher = Batcher(gate, clock=clock, wait=only_for_the_event, max_batch_size=8, batch_wait_ms=300)
        for n in range(lone_before):  # a history of rare arrivals
            gate.released.release()
            await submit(batcher, -n)
            clock.advance(1000)
        gate.batches.clear()
        tasks = [asyncio.create_task(submit(batcher, 0))]
        await until(lambda: gate.batches)
        for n in (1, 2):
            clock.advance(40)
            tasks.append(asyncio.create_task(submit(batcher, n)))
            await settle()
        gate.released.release()
        await tasks[0]
        await settle()
        lingers = num_waiting(batcher) == 2
        tasks.append(asyncio.create_task(submit(batcher, 3)))
        clock.advance(300)  # past batch_wait_ms
        gate.released.release(3)
        await asyncio.gather(*tasks)
        return lingers, gate.batches

    # One every 40 ms: delaying two by 40 ms is cheaper than 180 ms of compute for the next one alone.
    assert asyncio.run(scenario(lone_before=0)) == (True, [[0], [1, 2, 3]])
    assert asyncio.run(scenario(lone_before=3)) == (False, [[0], [1, 2], [3]])


def test_never_waits_beyond_the_limit():
    async def scenario():
        clock = Clock()
        gate = Gate(clock, takes_ms=500.0)
        batcher = Batcher(gate, clock=clock, max_batch_size=8, batch_wait_ms=200)
        tasks = [asyncio.create_task(submit(batcher, 0))]
        await until(lambda: gate.batches)
        clock.advance(1)
        tasks.append(asyncio.create_task(submit(batcher, 1)))
        await settle()
        gate.released.release(2)
        await asyncio.gather(*tasks)
        assert gate.batches == [[0], [1]], "the second had waited 500 ms already"

    asyncio.run(scenario())


def test_a_clock_that_is_set_makes_no_batch_look_as_if_it_hung():
    async def scenario():
        clock = Clock()
        gate = Gate(clock)
        batcher = Batcher(gate, clock=clock)
        task = asyncio.create_task(submit(batcher, 0))
        await until(lambda: gate.batches)
        clock.advance(3_600_000)
        assert 0 < batcher.running_s() < 60
        gate.released.release()
        await task
        assert batcher.running_s() == 0

    asyncio.run(scenario())


def test_a_member_cancelled_while_waiting_leaves():
    async def scenario():
        clock = Clock()
        gate = Gate(clock)
        batcher = Batcher(gate, clock=clock)
        first = asyncio.create_task(submit(batcher, 0))
        await until(lambda: gate.batches)
        leaves, stays = (asyncio.create_task(submit(batcher, n)) for n in (1, 2))
        await settle()
        leaves.cancel()
        await settle()
        assert num_waiting(batcher) == 1
        gate.released.release(2)
        assert (await stays).value == 20 and (await first).value == 0
        assert gate.batches == [[0], [2]]

    asyncio.run(scenario())


def test_one_bad_member_fails_alone():
    async def scenario():
        batcher = Batcher(lambda items: [ValueError("bad") if item < 0 else item for item in items])
        blocker = asyncio.create_task(submit(batcher, 1))
        bad, good = asyncio.create_task(submit(batcher, -1)), asyncio.create_task(submit(batcher, 2))
        assert (await blocker).value == 1 and (await good).value == 2
        with pytest.raises(ValueError):
            await bad

    asyncio.run(scenario())


def test_a_batch_that_raises_fails_its_members_and_no_others():
    async def scenario():
        def compute(items):
            if 13 in items:
                raise RuntimeError("device lost")
            return items

        batcher = Batcher(compute)
        with pytest.raises(RuntimeError):
            await submit(batcher, 13)
        assert (await submit(batcher, 14)).value == 14

    asyncio.run(scenario())


def test_where_a_batch_raises_its_members_are_computed_one_by_one():
    async def scenario():
        computed = []

        def compute(items):
            computed.append(items)
            if 130 in items:  # the gate multiplies
                raise RuntimeError("no phonemes")
            return items

        gate = Gate(Clock())
        batcher = Batcher(lambda items: compute(gate(items)), batch_wait_ms=0)
        first = asyncio.create_task(submit(batcher, 0))
        await until(lambda: gate.batches)
        bad, *good = [asyncio.create_task(submit(batcher, n)) for n in (13, 1, 2)]
        await settle()
        gate.released.release(2 + 3)
        assert (await first).value == 0
        done = await asyncio.gather(*good)
        with pytest.raises(RuntimeError, match="no phonemes"):
            await bad
        assert [one.size for one in done] == [3, 3]
        return computed

    computed = asyncio.run(scenario())
    assert len(computed[0]) == 1 and [len(items) for items in computed[1:]] == [3, 1, 1, 1]


def test_a_short_result_list_is_an_error_not_a_hang():
    async def scenario():
        batcher = Batcher(lambda items: [])
        with pytest.raises(RuntimeError, match="0 results for 1"):
            await asyncio.wait_for(submit(batcher, 1), 2)

    asyncio.run(scenario())


def test_settings_change_live():
    async def scenario():
        clock = Clock()
        gate = Gate(clock)
        batcher = Batcher(gate, clock=clock, max_batch_size=8)
        tasks = [asyncio.create_task(submit(batcher, 0))]
        await until(lambda: gate.batches)
        tasks += [asyncio.create_task(submit(batcher, n)) for n in range(1, 5)]
        await settle()
        batcher.configure(max_batch_size=2)
        gate.released.release(3)
        await asyncio.gather(*tasks)
        assert gate.batches == [[0], [1, 2], [3, 4]]
        with pytest.raises(ValueError):
            batcher.configure(max_batch_size=0)

    asyncio.run(scenario())


def test_who_must_be_answered_first_is_computed_first():
    async def scenario():
        clock = Clock()
        gate = Gate(clock)
        batcher = Batcher(gate, max_batch_size=2, batch_wait_ms=0, clock=clock, wait=only_for_the_event)
        tasks = [asyncio.create_task(submit(batcher, 0))]
        await until(lambda: gate.batches)
        for item, deadline_ns in ((1, 900), (2, 900), (3, 500), (4, 700), (5, float("inf"))):
            clock.advance(1)
            tasks.append(asyncio.create_task(submit(batcher, item, deadline_ns)))
            await settle()
        for _ in range(4):
            gate.released.release()
        done = await asyncio.gather(*tasks)
        assert [one.value for one in done] == [0, 10, 20, 30, 40, 50]
        return gate.batches

    assert asyncio.run(scenario()) == [[0], [3, 4], [1, 2], [5]]


def test_a_span_says_when_its_request_left_the_queue_and_when_its_batch_began():
    span = Tracer("tts-service").server("GENERATE_MEL", parent=None)
    tag_batch(span, Batched("mel", "0" * 16, 3, arrived_ns=1_000_000, dequeued_ns=3, started_ns=4_000_000, ended_ns=9))
    rejected = Tracer("tts-service").server("GENERATE_MEL", parent=None)
    tag_batch(rejected, Batched(ValueError(), None, None, arrived_ns=1, dequeued_ns=None, started_ns=2, ended_ns=2))
    [record], [other] = span.end(), rejected.end()
    assert record.events == ((3, "dequeued"), (4_000_000, "batch started")) and other.events == ()
    assert (record.tags["batch.size"], record.tags["batch.wait_ms"]) == (3, 3.0)
    assert "batch.id" not in other.tags


def test_memory_is_tidied_between_batches_at_most_every_half_minute():
    async def scenario():
        clock, tidied = Clock(), []

        def tidy():
            tidied.append((clock.ns / 1e9, threading.current_thread().name))

        def compute(items):
            clock.advance(12_000)
            return items

        batcher = Batcher(compute, clock=clock, stopwatch=lambda: clock.ns / 1e9, tidy=tidy)
        for _ in range(8):
            await submit(batcher, 1)
            batcher.in_thread(lambda: None)  # what was tidied is done
        assert [at for at, _ in tidied] == [36, 72], "batches of 12 s: after the third and the sixth"
        assert {thread for _, thread in tidied} == {"compute_0"}

    asyncio.run(scenario())
