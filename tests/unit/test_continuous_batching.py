"""The continuous driver, with a model whose steps the test lets go one by one, on a clock of the test's own."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from deployments.scaling.work_log import read
from deployments.stages.continuous_batching import ContinuousBatcher
from engines.contract import ContinuousAcousticModel, Mel, Utterance, Voice
from speech.errors import InvalidInput, StageUnavailable

STEP_MS = 10


@dataclass(eq=False)
class Ticket:
    text: str
    left: int  #: steps to go
    joined_ns: int | None = None
    batch_size: int | None = None
    batch_id: str | None = None
    sizes: list[int] = field(default_factory=list)


class Model:
    """Speaks for as many steps as the text has letters. `step` waits until the test has released it."""

    def __init__(self, rows: int = 2) -> None:
        self.rows = self.limit = rows
        self.wait_ms = None
        self.tickets: list[Ticket] = []
        self.steps: list[str] = []  #: who took part in each
        self.raises: dict[str, Exception] = {}  #: what to raise in a step that has this text in it
        self.released = threading.Semaphore(0)
        self.ns = 0
        self.thread = threading.get_ident()
        self.free = False

    def clock(self) -> int:
        return self.ns

    @property
    def decoding(self) -> int:
        return sum(ticket.joined_ns is not None for ticket in self.tickets)

    @property
    def waiting(self) -> int:
        return len(self.tickets) - self.decoding

    def generate(self, jobs):
        raise AssertionError("the driver takes no whole batches")

    def configure(self, rows=None, wait_ms=None):
        self.limit = rows or self.limit
        self.wait_ms = self.wait_ms if wait_ms is None else wait_ms

    def submit(self, utterance: Utterance, voice: Voice):
        assert threading.get_ident() == self.thread
        if utterance.text == "refuse":
            return InvalidInput("No.", param="text")
        if utterance.text == "defect":
            raise KeyError("a defect in submit")
        self.tickets.append(Ticket(utterance.text, len(utterance.text)))
        return self.tickets[-1]

    def cancel(self, ticket):
        assert threading.get_ident() == self.thread
        if ticket in self.tickets:
            self.tickets.remove(ticket)

    def step(self):
        assert threading.get_ident() == self.thread
        for ticket in self.tickets:
            if self.decoding < self.limit and ticket.joined_ns is None:
                ticket.joined_ns = self.ns
        here = [ticket for ticket in self.tickets if ticket.joined_ns is not None]
        self.steps.append(" ".join(ticket.text for ticket in here))
        if not self.free:
            assert self.released.acquire(timeout=5), "the test never let this step go"
        self.ns += STEP_MS * 1_000_000
        for ticket in here:
            if ticket.text in self.raises:
                raise self.raises[ticket.text]
        for ticket in here:
            ticket.left -= 1
            ticket.sizes.append(len(here))
            ticket.batch_size = round(sum(ticket.sizes) / len(ticket.sizes))
        ended = [ticket for ticket in here if ticket.left == 0]
        for ticket in ended:
            ticket.batch_id = f"{len(self.steps):016x}"
            self.tickets.remove(ticket)
        return [(ticket, Mel({}, float(len(ticket.text)))) for ticket in ended]


class Desk:
    """A driver, its model, and what the test does with both."""

    def __init__(self, rows: int = 2) -> None:
        self.executor = ThreadPoolExecutor(1)
        self.model = self.executor.submit(Model, rows).result()
        self.seconds = 0.0  #: of the stopwatch
        self.driver = ContinuousBatcher(self.model, self.executor, self.model.clock, lambda: self.seconds)

    def ask(self, text: str) -> asyncio.Task:
        return asyncio.create_task(self.driver.submit((Utterance(text, "en-US"), Voice({}))))

    async def asked(self, *texts: str) -> list[asyncio.Task]:
        """All of them wait before the model's next step: the first is in it when the others come."""
        tasks = []
        for text in texts:
            tasks.append(self.ask(text))
            await until(lambda: self.model.steps)
        await asyncio.sleep(0.01)
        return tasks

    def go(self, steps: int = 1) -> None:
        self.model.released.release(steps)

    async def gone(self, steps: int) -> None:
        """Let so many steps go, and wait until the next one has begun or nobody is there."""
        before = len(self.model.steps)
        self.go(steps)
        await until(lambda: len(self.model.steps) == before + steps or not self.model.tickets)


async def until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("never happened")


def run(scenario, rows: int = 2):
    async def whole():
        desk = Desk(rows)
        try:
            return await asyncio.wait_for(scenario(desk), 10)
        finally:
            desk.model.free = True
            desk.go(1)
            desk.driver.close()

    return asyncio.run(whole())


def test_the_stand_in_is_what_the_contract_says():
    assert isinstance(Model(), ContinuousAcousticModel)


def test_who_comes_second_and_is_short_is_through_first():
    async def scenario(desk):
        (long,) = await desk.asked("longest")
        await desk.gone(2)
        short = desk.ask("ab")
        await asyncio.sleep(0.02)
        await desk.gone(3)
        done = await short
        assert not long.done() and done.value.seconds == 2.0
        desk.go(5)
        assert (await long).value.seconds == 7.0
        assert desk.model.steps == ["longest"] * 3 + ["longest ab"] * 2 + ["longest"] * 2

    run(scenario)


def test_what_its_span_says():
    async def scenario(desk):
        first, second = await desk.asked("abc", "ab")
        third = desk.ask("abcd")
        await asyncio.sleep(0.02)
        desk.go(9)
        first, second, third = await asyncio.gather(first, second, third)
        assert (first.wait_ms, first.compute_ms) == (0, 3 * STEP_MS)
        assert (second.wait_ms, second.compute_ms) == (STEP_MS, 2 * STEP_MS), "it came while a step was under way"
        assert (third.wait_ms, third.compute_ms) == (3 * STEP_MS, 4 * STEP_MS), "until there was a row for it"
        assert third.arrived_ns <= third.dequeued_ns < third.started_ns, "the model had it before it had a row for it"
        assert [done.size for done in (first, second, third)] == [2, 2, 1]
        assert len({done.batch_id for done in (first, second, third)}) == 2, "two were finished by the same step"

    run(scenario)


def test_who_is_cancelled_leaves_at_the_next_step_and_makes_room():
    async def scenario(desk):
        long, other, waits = await desk.asked("longest", "others", "ab")
        await desk.gone(1)
        assert (desk.model.decoding, desk.model.waiting) == (2, 1)
        long.cancel()
        await asyncio.sleep(0.01)
        await desk.gone(1)
        assert desk.model.steps[2] == "others ab" and len(desk.model.tickets) == 2
        waits.cancel()
        other.cancel()
        await asyncio.sleep(0.01)
        desk.go(1)
        await until(lambda: not desk.model.tickets)
        assert [task.cancelled() for task in (long, other, waits)] == [True] * 3
        assert len(desk.model.steps) == 3, "for nobody there is no step"

    run(scenario)


def test_who_is_cancelled_before_it_was_submitted_never_is():
    async def scenario(desk):
        first, second = await desk.asked("abc", "gone")
        second.cancel()
        await asyncio.sleep(0.01)
        desk.go(3)
        await first
        assert desk.model.steps == ["abc"] * 3

    run(scenario)


def test_a_refused_one_says_so_at_once_and_has_no_batch():
    async def scenario(desk):
        done = await desk.ask("refuse")
        assert isinstance(done.value, InvalidInput) and (done.batch_id, done.size, done.compute_ms) == (None, None, 0)
        failed = await desk.ask("defect")
        assert isinstance(failed.value, KeyError)
        desk.go(2)
        assert (await desk.ask("ok")).value.seconds == 2.0

    run(scenario)


def test_a_step_that_raises_is_done_again_one_by_one_and_only_the_bad_one_fails(caplog):
    async def scenario(desk):
        desk.model.raises["bad"] = RuntimeError("the secret text")
        good, bad, other, waits = await desk.asked("good", "bad", "other", "ab")
        await asyncio.sleep(0.01)
        desk.go(100)
        results = await asyncio.gather(good, bad, other, waits)
        assert [type(done.value) for done in results] == [Mel, RuntimeError, Mel, Mel]
        assert desk.model.steps[:2] == ["good", "good bad other"]
        assert set(desk.model.steps[2 : 2 + 4 + 1 + 5]) == {"good", "bad", "other"}, "each alone"
        assert desk.model.steps[12:] == ["ab", "ab"], "who had no part in it waits, and is not lost"
        assert results[1].batch_id is None and results[1].compute_ms == STEP_MS
        assert not desk.model.tickets

    with caplog.at_level(logging.ERROR, "ray.serve"):
        run(scenario, rows=3)
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text


def test_one_that_fails_alone_is_not_tried_again():
    async def scenario(desk):
        desk.model.raises["bad"] = RuntimeError("no")
        desk.go(1)
        assert isinstance((await desk.ask("bad")).value, RuntimeError)
        assert desk.model.steps == ["bad"]
        desk.go(2)
        assert (await desk.ask("ok")).value.seconds == 2.0, "the driver lives on"

    run(scenario)


def test_who_is_computed_alone_can_be_cancelled_then_too():
    async def scenario(desk):
        desk.model.raises["bad"] = RuntimeError("no")
        long, bad = await desk.asked("longest", "bad")
        await desk.gone(2)
        assert desk.model.steps[1:] == ["longest bad", "longest"]
        long.cancel()
        await asyncio.sleep(0.01)
        desk.go(2)
        assert isinstance((await bad).value, RuntimeError)
        assert desk.model.steps[3:] == ["bad"]

    run(scenario)


def test_a_model_that_answers_for_somebody_unknown_leaves_nobody_waiting():
    async def scenario(desk):
        desk.model.step = lambda: [(Ticket("nobody", 0), Mel({}, 1.0))]
        assert isinstance((await desk.ask("abc")).value, KeyError)
        assert not desk.model.tickets

    run(scenario)


def test_a_model_that_can_not_take_requests_out_after_a_step_that_raised_leaves_nobody_waiting():
    async def scenario(desk):
        desk.model.raises["bad"] = RuntimeError("no")
        tasks = await desk.asked("good", "bad", "other")
        cancel = desk.model.cancel

        def broken(ticket):
            if ticket.text == "bad":
                raise OSError("the device is gone")
            cancel(ticket)

        desk.model.cancel = broken
        desk.go(100)
        results = await asyncio.gather(*tasks)
        assert [type(done.value) for done in results] == [OSError] * 3

    run(scenario, rows=3)


def test_health_sees_a_step_that_hangs():
    async def scenario(desk):
        (task,) = await desk.asked("a")
        desk.model.ns += 3_600_000_000_000
        assert desk.driver.running_s() == 0.0, "a clock that was set"
        desk.seconds += 7.0
        assert desk.driver.running_s() == 7.0
        desk.go(1)
        await task
        await until(lambda: desk.driver.running_s() == 0.0)

    run(scenario)


def test_settings_change_between_two_steps():
    async def scenario(desk):
        tasks = await desk.asked("abcd", "abcd")
        desk.driver.configure(max_batch_size=1, batch_wait_ms=50)
        third = desk.ask("ab")
        await asyncio.sleep(0.01)
        desk.go(20)
        await asyncio.gather(*tasks, third)
        assert desk.model.wait_ms == 50 and desk.model.steps[-2:] == ["ab", "ab"]
        assert all(" " not in step for step in desk.model.steps), "the second had not joined when the limit came"
        for wrong in ({"max_batch_size": 0}, {"batch_wait_ms": -1}):
            with pytest.raises(ValueError):
                desk.driver.configure(**wrong)

    run(scenario)


def test_more_rows_than_there_are_is_a_warning(caplog):
    async def scenario(desk):
        desk.driver.configure(max_batch_size=100)
        desk.go(2)
        await desk.ask("ab")
        assert desk.model.limit == 2

    with caplog.at_level(logging.WARNING, "ray.serve"):
        run(scenario)
    assert "max_batch_size is 100 and the model has memory for 2 rows" in caplog.text


def test_closing_tells_who_is_still_there():
    async def scenario(desk):
        tasks = await desk.asked("longest", "others", "third")
        desk.driver.close()
        desk.go(1)
        for task in tasks:
            assert isinstance((await task).value, StageUnavailable)
        with pytest.raises(StageUnavailable, match="being stopped"):
            await desk.ask("late")
        assert not desk.model.tickets

    run(scenario)


def test_after_idling_it_starts_again():
    async def scenario(desk):
        desk.model.free = True
        for _ in range(50):
            assert (await desk.ask("ab")).value.seconds == 2.0
        many = await asyncio.gather(*(desk.ask("x" * (1 + n % 5)) for n in range(50)))
        assert [done.value.seconds for done in many] == [1 + n % 5 for n in range(50)]

    run(scenario)


def test_its_work_is_reported_to_the_scaling_policy():
    async def scenario(desk):
        tasks = await desk.asked("aa", "bb", "cc")
        before = read(desk.driver.work_stats())
        assert (before.arrived, before.done, before.waiting + before.computing) == (3, 0, 3) and before.batch == 2
        while not all(task.done() for task in tasks):
            desk.go()
            await asyncio.sleep(0.005)
        after = read(desk.driver.work_stats())
        assert (after.arrived, after.done, after.waiting, after.computing) == (3, 3, 0, 0)
        assert after.steps == len(desk.model.steps) and after.steps <= after.members <= 2 * after.steps
        assert after.busy_s == pytest.approx(after.steps * STEP_MS / 1000)

    run(scenario)
