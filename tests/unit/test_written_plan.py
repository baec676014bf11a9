"""The first sound of a text that is still being written waits for the second, where that avoids a gap."""

from __future__ import annotations

import asyncio

import pytest

from deployments.ingress.continuity import Continuity
from deployments.ingress.run_ahead import RunAhead
from deployments.ingress.writing_pace import WritingPace
from deployments.ingress.written_plan import FAST, LONGER_S, RESERVE, USUAL_S, WrittenPlan
from tests.unit.test_run_ahead import Clock, say

TOOK_S = 0.8  #: for the first sound


def typed(clock: Clock, characters: int, per_s: float) -> WritingPace:
    """Type so many characters, one in a message."""
    pace = WritingPace(clock)
    for _ in range(characters):
        pace.add(1)
        clock.now += 1 / per_s
    return pace


def begun(clock: Clock, pace: WritingPace | None, first: int = 40, seconds: float = 2.6, **more) -> WrittenPlan:
    """Make a plan whose first piece has been heard half a second of."""
    plan = WrittenPlan(RunAhead(clock), more.pop("chunked", False), 4, Continuity(clock), writing=pace, **more)
    plan.start(say(first))
    clock.now += TOOK_S
    plan.add(0, 0.5, False)
    plan._started[0].seconds = seconds
    return plan


def test_a_pace_is_the_characters_after_the_first_message_in_a_second():
    clock = Clock()
    pace = WritingPace(clock)
    pace.add(30)
    assert pace.per_s is None
    for _ in range(4):
        clock.now += 0.2
        pace.add(5)
    assert pace.per_s == pytest.approx(20 / 0.8) and pace.characters == 50
    clock.now += 0.8
    assert pace.per_s == pytest.approx(20 / 1.6), "who thinks is slow"
    pace.ended = True
    assert pace.per_s is None


@pytest.mark.parametrize(("messages", "apart_s"), [(4, 1.0), (20, 0.02)])
def test_little_text_tells_no_pace(messages, apart_s):
    clock = Clock()
    pace = WritingPace(clock)
    for _ in range(messages):
        pace.add(4)
        clock.now += apart_s
    assert pace.per_s is None


def test_what_is_missing_is_the_time_to_write_and_make_the_next_clause_less_the_first_ones_length():
    clock = Clock()
    plan = begun(clock, pace := typed(clock, 40, 20.0))
    ahead = plan.ahead.seconds_of(say(40))
    per_s, length = pace.per_s, 40 * USUAL_S / ahead
    assert per_s == pytest.approx(39 / 2.8, rel=0.01) and ahead < USUAL_S
    assert plan.missing_s() == pytest.approx(length / per_s + RESERVE * TOOK_S - 2.6 + LONGER_S)
    pace.add(20)
    assert plan.missing_s() == pytest.approx((length - 20) / pace.per_s + RESERVE * TOOK_S - 2.6 + LONGER_S)
    plan.start(say(50))
    assert plan.missing_s() == pytest.approx(RESERVE * TOOK_S - 2.6 + LONGER_S), "it is being made"
    clock.now += 5.0
    assert plan.missing_s() == pytest.approx(0.02 - 2.6 + LONGER_S)
    plan.add(1, 0.5, False)
    assert plan.missing_s() is None, "it is there"


@pytest.mark.parametrize(("times", "reserve"), [(0.9, LONGER_S), (1.1, 0.0)])
def test_only_text_that_comes_hardly_faster_than_speech_is_held_for_a_longer_clause(times, reserve):
    clock = Clock()
    speech = 40 / 2.6  # characters a second
    plan = begun(clock, pace := typed(clock, 40, 2.0 * speech))
    # The pace is that of all the time, and the first sound took some of it.
    pace.characters = 1 + round(times * FAST * speech * (40 / (2.0 * speech) + TOOK_S))
    plan.start(say(50))
    assert plan.missing_s() == pytest.approx(RESERVE * TOOK_S - 2.6 + reserve)


def test_a_long_first_clause_lets_a_long_next_one_be_expected():
    clock = Clock()
    plan = begun(clock, pace := typed(clock, 100, 20.0), first=100, seconds=6.5)
    assert plan.missing_s() == pytest.approx(100 / pace.per_s + RESERVE * TOOK_S - 6.5 + LONGER_S)


@pytest.mark.parametrize("why", ["no writer", "nothing heard", "by chunks", "ended", "at once"])
def test_nothing_is_expected(why):
    clock = Clock()
    pace = typed(clock, 40, 20.0)
    if why == "nothing heard":
        plan = WrittenPlan(RunAhead(clock), False, 4, Continuity(clock), writing=pace)
        plan.start(say(40))
    else:
        plan = begun(clock, None if why == "no writer" else pace, chunked=why == "by chunks")
    if why == "ended":
        pace.ended = True
    if why == "at once":
        plan.writing = WritingPace(clock)
        plan.writing.add(400)
    assert plan.missing_s() is None and asyncio.run(plan.hold(1.0)) == 0.0


class Passing(Clock):
    """A clock that goes on whenever it is waited for."""

    async def wait(self, seconds: float) -> None:
        self.now += seconds


def held(plan: WrittenPlan, clock: Passing, most_s: float, monkeypatch, meanwhile=lambda: None) -> float:
    async def change(seconds: float) -> None:
        await clock.wait(seconds)
        meanwhile()

    monkeypatch.setattr(plan, "_change", change)
    return asyncio.run(plan.hold(most_s))


def test_a_sound_is_held_until_nothing_is_missing_any_more(monkeypatch):
    clock = Passing()
    plan = begun(clock, pace := typed(clock, 40, 20.0), seconds=3.9)
    missing = plan.missing_s()
    assert 0 < missing < 1.0
    assert 0 < held(plan, clock, 1.0, monkeypatch, lambda: pace.add(2)) < missing + 0.1
    assert plan.missing_s() <= 0


def test_a_sound_is_held_no_longer_than_allowed_and_not_at_all_where_that_would_not_do(monkeypatch):
    clock = Passing()
    plan = begun(clock, typed(clock, 40, 20.0), seconds=2.9)
    assert 1.0 < plan.missing_s() < 2.0
    assert held(plan, clock, 1.0, monkeypatch) == pytest.approx(1.0)
    slow = begun(clock, typed(clock, 40, 8.0), seconds=2.6)
    assert slow.missing_s() > 2.0 and held(slow, clock, 1.0, monkeypatch) == 0.0
    fast = begun(clock, typed(clock, 80, 80.0), seconds=2.6)
    assert held(fast, clock, 1.0, monkeypatch) == 0.0, "what a language model writes is there in time"
    off = begun(clock, typed(clock, 40, 20.0), seconds=2.6)
    assert held(off, clock, 0.0, monkeypatch) == 0.0, "limits.first_audio_hold_s: 0"
