"""Streams through the continuous driver, with a model that says a chunk at every step."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import pytest

from deployments.stages.continuous_batching import ContinuousBatcher
from engines.contract import Mel, MelChunk, Utterance, Voice
from speech.errors import InternalError


@dataclass(eq=False)
class Ticket:
    text: str
    stream: bool
    letters: int = 0  #: given out so far
    joined_ns: int | None = 1
    batch_size: int | None = 1
    batch_id: str | None = "00"

    @property
    def said(self):
        return (tuple(self.text[: self.letters].encode()),)


class Model:
    """A chunk for each letter. `trouble` is raised by a step, once, with the text that it concerns; `refused` ends a
    ticket in mid-stream."""

    def __init__(self) -> None:
        self.rows, self.decoding, self.waiting = 4, 0, 0
        self.tickets: list[Ticket] = []
        self.trouble: dict[str, int] = {}  #: text -> after how many of its chunks
        self.refused: dict[str, int] = {}
        self.submitted: list[str] = []
        self.continued: list[tuple] = []  #: `said` of each submit
        self.gate = threading.Semaphore(0)
        self.gated = False
        self.configured = threading.Event()  #: a turn with new settings waits for it, before it takes any request
        self.configured.set()

    def generate(self, jobs):
        raise AssertionError("nobody asks for whole batches")

    def configure(self, rows=None, wait_ms=None):
        assert self.configured.wait(timeout=5)

    def submit(self, utterance: Utterance, voice: Voice, stream: bool = False, said=(), beyond=None):
        self.submitted.append(utterance.text)
        self.continued.append(said)
        self.tickets.append(Ticket(utterance.text, stream))
        return self.tickets[-1]

    def cancel(self, ticket):
        if ticket in self.tickets:
            self.tickets.remove(ticket)

    def step(self):
        if self.gated:
            assert self.gate.acquire(timeout=5)
        for ticket in self.tickets:
            if self.trouble.get(ticket.text) == ticket.letters:
                del self.trouble[ticket.text]
                raise RuntimeError("a step failed")
        return [self._said(ticket) for ticket in list(self.tickets)]

    def _said(self, ticket: Ticket):
        ticket.letters += 1
        if self.refused.get(ticket.text) == ticket.letters:
            self.cancel(ticket)
            return ticket, InternalError("it went wrong")
        if ticket.text == "abcd" and self.submitted.count("abcd") == 2 and ticket.letters == 1:
            ticket.letters = 2  # cut elsewhere the second time
        last = ticket.letters == len(ticket.text)
        if last:
            self.cancel(ticket)
        if not ticket.stream:
            return ticket, Mel({}, float(ticket.letters)) if last else MelChunk({}, 0.0, 0, False)
        heard = np.frombuffer(ticket.text[: ticket.letters].encode(), np.uint8)
        return ticket, MelChunk({"heard": heard}, float(ticket.letters), 0, last, last)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def driver(model) -> ContinuousBatcher:
    executor = ThreadPoolExecutor(1)
    yield ContinuousBatcher(model, executor)
    executor.shutdown(wait=True)


async def heard(driver: ContinuousBatcher, text: str) -> list:
    """Return each chunk as text, an error as its type."""
    found = []
    async for done in driver.stream((Utterance(text, "en-US"), Voice({}))):
        found.append(
            type(done.value).__name__
            if isinstance(done.value, Exception)
            else done.value.arrays["heard"].tobytes().decode()
        )
    return found


def test_chunks_come_in_order_up_to_the_last(driver):
    async def scenario():
        one, other = await asyncio.gather(heard(driver, "abc"), heard(driver, "xy"))
        assert one == ["a", "ab", "abc"] and other == ["x", "xy"]

    asyncio.run(scenario())


def test_an_error_ends_a_stream_and_no_other(driver, model):
    model.refused = {"abc": 2}

    async def scenario():
        one, other = await asyncio.gather(heard(driver, "abc"), heard(driver, "wxyz"))
        assert one == ["a", "InternalError"] and other[-1] == "wxyz"

    asyncio.run(scenario())


def test_a_failed_step_is_computed_again_and_no_chunk_comes_twice(driver, model):
    model.trouble = {"abcd": 2}
    model.configured.clear()
    driver.configure(batch_wait_ms=0)

    async def scenario():
        both = [asyncio.create_task(heard(driver, text)) for text in ("abcd", "wxyz")]
        await asyncio.sleep(0)  # both are added now, or the first one could have failed alone
        model.configured.set()
        one, other = await asyncio.gather(*both)
        assert one == ["a", "ab", "abc", "abcd"] and other == ["w", "wx", "wxy", "wxyz"]

    asyncio.run(scenario())
    assert model.submitted == ["abcd", "wxyz", "abcd", "wxyz"]
    assert model.continued == [(), (), (tuple(b"ab"),), (tuple(b"wx"),)], "each goes on after what it had said"


def test_who_stops_listening_leaves_at_the_next_step(driver, model):
    model.gated = True

    async def scenario():
        async with aclosing(driver.stream((Utterance("abcdef", "en-US"), Voice({})))) as chunks:
            model.gate.release(1)
            await anext(chunks)
        model.gate.release(1)  # the step under way
        for _ in range(500):
            if not model.tickets:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("its ticket is still there")

    asyncio.run(scenario())
    assert model.submitted == ["abcdef"]
