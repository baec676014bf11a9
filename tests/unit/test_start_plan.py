"""A piece is started when those before it are made, or when it would come too late, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import math

import pytest

from deployments.ingress.continuity import Continuity
from deployments.ingress.part_plan import PART_FACTOR, SOON_S, ends_of_parts
from deployments.ingress.run_ahead import RunAhead
from deployments.ingress.start_plan import StartPlan
from speech.utterance import Utterance
from tests.unit.test_run_ahead import Clock


def say(seconds: float) -> Utterance:
    """Return an utterance of so many seconds: ten characters each."""
    return Utterance("a" * round(10 * seconds), "en-US")


def plan_of(clock: Clock, factor: float | None = 0.5, chunked: bool = False, at_once: int = 4) -> StartPlan:
    """Return a plan that has seen utterances take `factor` of the time that they last; None: that has seen none."""
    ahead = RunAhead(clock)
    for seconds in (1.0, 2.0, 3.0) if factor is not None else ():
        ahead.note_piece(say(seconds), seconds, factor * seconds)
    return StartPlan(ahead, chunked, at_once, Continuity(clock))


def first(plan: StartPlan, clock: Clock, took: float) -> None:
    """The first utterance, of 2 s, has taken so long, and is heard."""
    plan.start(say(2))
    clock.now += took
    heard(plan, 0, 2.0)


def heard(plan: StartPlan, number: int, seconds: float) -> None:
    """The utterance is made, and all of it handed over at once."""
    plan.add(number, seconds, True)
    with plan.continuity.sending(seconds):
        pass
    plan.taken(number)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_first_is_alone_until_it_is_heard(chunked):
    clock = Clock()
    plan = plan_of(clock, chunked=chunked)
    assert plan.wait_s(say(3)) == 0 and plan.start(say(3)) == 0
    assert plan.wait_s(say(2)) == math.inf, "nothing was heard yet"
    plan.add(0, 0.5, False)
    assert (plan.wait_s(say(2)) == 0) is chunked, "chunks are computed in one batch"


def test_two_are_made_one_after_the_other_where_there_is_time():
    clock = Clock()
    plan = plan_of(clock)
    first(plan, clock, 1.0)
    assert plan.wait_s(say(2)) == 0, "nothing is under way"
    plan.start(say(2))
    # The listener has 2 + 2 s until the third is needed; the second and it take 1 s each.
    assert plan.wait_s(say(2)) == pytest.approx(2.0)
    plan.add(1, 2.0, True)
    assert plan.wait_s(say(2)) == 0


def test_one_that_would_come_too_late_is_started_beside_its_predecessor():
    clock = Clock()
    plan = plan_of(clock, factor=1.5)
    first(plan, clock, 3.0)
    plan.start(say(2))
    # 4 s are left, and 3 + 3 s are needed.
    assert plan.wait_s(say(2)) == 0


def test_a_predecessor_that_is_overdue_is_not_waited_for_to_the_end():
    clock = Clock()
    plan = plan_of(clock)
    first(plan, clock, 1.0)
    plan.start(say(2))
    clock.now += 2.1
    assert plan.wait_s(say(3)) == 0, "the listener is dry, and has only what is under way: 2 s"
    assert plan.wait_s(say(0.5)) > 0, "a short one is still in time behind it"


def test_while_nothing_is_known_one_is_made_after_the_other():
    clock = Clock()
    plan = plan_of(clock, factor=None)
    first(plan, clock, 1.0)
    plan.start(say(2))
    assert plan.wait_s(say(2)) == math.inf
    plan.add(1, 2.0, True)
    assert plan.wait_s(say(2)) == 0


def test_a_slow_listener_delays_what_is_not_started():
    clock = Clock()
    plan = plan_of(clock, at_once=2)
    first(plan, clock, 1.0)
    for number in (1, 2):
        assert plan.wait_s(say(2)) == 0
        plan.start(say(2))
        plan.add(number, 2.0, True)
    assert plan.wait_s(say(2)) == math.inf, "two are made and not taken"
    plan.taken(1)
    assert plan.wait_s(say(2)) == 0


def test_an_utterance_is_due_when_its_listener_needs_it_less_its_own_time():
    clock = Clock()
    plan = plan_of(clock)
    first(plan, clock, 1.0)
    clock.now += 0.5
    assert plan.start(say(2)) == pytest.approx(1.5 - 1.0)
    assert plan.start(say(2)) == pytest.approx(1.5 + 2.0 - 1.0)


def test_it_learns_from_what_was_needed_and_had_the_graph_for_itself():
    clock = Clock()
    plan = plan_of(clock, factor=None)
    for number in range(3):  # each one when the listener is dry
        plan.start(say(1 + number))
        clock.now += 2.0 * (1 + number)
        heard(plan, number, 1.0 + number)
        clock.now += 1.0 + number
    assert plan.ahead.latency_s(2.0) == pytest.approx(4.0)
    plan.start(say(1))
    plan.start(say(1))  # beside another
    clock.now += 30.0
    heard(plan, 4, 1.0)
    assert plan.ahead.latency_s(2.0) == pytest.approx(4.0), "its time is not what one takes that is alone"


def test_the_wait_ends_when_the_one_before_is_made():
    async def scenario() -> float:
        plan = StartPlan(RunAhead(), False, 4, Continuity())
        plan.start(say(2))
        heard(plan, 0, 2.0)
        plan.start(say(2))
        loop = asyncio.get_running_loop()
        began = loop.time()
        loop.call_later(0.05, plan.add, 1, 2.0, True)
        async with asyncio.timeout(5):
            await plan.room(say(2))
        return loop.time() - began

    assert asyncio.run(scenario()) >= 0.05


def test_a_piece_is_divided_that_is_waited_for_or_soon_will_be():
    plan = plan_of(Clock())
    assert plan.divided(0, 5.0)(6.0) == ends_of_parts(6.0), "the first is always waited for"
    assert plan.divided(1, -1.0) is not None and plan.divided(1, SOON_S) is not None
    assert plan.divided(1, SOON_S + 0.1) is None
    assert plan_of(Clock(), chunked=True).divided(0, 0.0) is None, "its engine has chunks of its own"


def test_parts_that_come_slowly_make_the_next_pieces_whole():
    clock = Clock()
    plan = plan_of(clock)
    plan.start(say(6))
    plan.add(0, 0.5, False)
    for _ in range(3):
        clock.now += 1.0
        plan.add(0, 0.5, False)
    assert plan.ahead.part_factor == pytest.approx(1.0)
    assert plan.divided(0, 0.0)(6.0) == []


def test_chunks_teach_nothing_of_parts():
    clock = Clock()
    plan = plan_of(clock, chunked=True)
    plan.start(say(6))
    for _ in range(5):
        clock.now += 1.0
        plan.add(0, 0.6, False)
    assert plan.ahead.part_factor == PART_FACTOR
