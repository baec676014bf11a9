"""Expectations of the next pieces of speech come from the recent ones."""

from __future__ import annotations

import pytest

from deployments.ingress.part_plan import OVERHEAD_S, PART_FACTOR
from deployments.ingress.run_ahead import PARTS_RECENT_S, PER_CHARACTER_S, RECENT_S, RunAhead
from speech.utterance import Utterance


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def say(characters: int, dialect: str = "en-US", speed: float = 1.0) -> Utterance:
    return Utterance("a" * characters, dialect, speed=speed)


def learned(clock: Clock, latencies: dict[float, float]) -> RunAhead:
    """Return what has seen pieces of so many seconds take so long, ten characters a second."""
    ahead = RunAhead(clock)
    for seconds, took in latencies.items():
        ahead.note_piece(say(round(10 * seconds)), seconds, took)
    return ahead


def test_the_length_of_a_piece_is_learned_for_each_dialect():
    ahead = learned(Clock(), {2.0: 1.0, 4.0: 1.0})
    assert ahead.seconds_of(say(50)) == pytest.approx(5.0)
    assert ahead.seconds_of(say(50, speed=2.0)) == pytest.approx(2.5)
    assert ahead.seconds_of(say(50, "en-GB")) == pytest.approx(50 * PER_CHARACTER_S), "nothing is known of it"
    assert ahead.seconds_of(say(50, "zh-CN")) > 2 * ahead.seconds_of(say(50, "en-GB"))


def test_latency_is_a_line_over_the_length():
    ahead = learned(Clock(), {2.0: 1.5, 4.0: 2.5, 6.0: 3.5})
    assert ahead.latency_s(8.0) == pytest.approx(4.5) and ahead.latency_s(1.0) == pytest.approx(1.0)
    level = learned(Clock(), {2.0: 3.0, 4.0: 2.0, 6.0: 1.0})
    assert level.latency_s(8.0) == pytest.approx(2.0), "a longer piece is never expected sooner"


def test_little_or_old_experience_is_none():
    clock = Clock()
    ahead = learned(clock, {2.0: 1.0, 4.0: 1.0})
    assert ahead.latency_s(3.0) is None
    ahead.note_piece(say(10), 1.0, 1.0)
    assert ahead.latency_s(3.0) == pytest.approx(1.0)
    clock.now += RECENT_S + 1
    assert ahead.latency_s(3.0) is None and ahead.correction == 1


def test_pieces_that_could_wait_do_not_slow_the_expectation():
    clock = Clock()
    ahead = learned(clock, {2.0: 1.0, 4.0: 1.0, 6.0: 1.0})
    ahead.note_piece(say(40), 4.0, 30.0, urgent=False)
    assert ahead.latency_s(4.0) == pytest.approx(1.0)


def test_the_correction_would_have_kept_nine_of_ten_streams():
    ahead = RunAhead(Clock())
    for tenths in range(1, 21):
        ahead.note_critical(tenths / 10)
        ahead.note_chunks(tenths / 10 - 1.5)
    assert ahead.correction == pytest.approx(1.8) and ahead.chunks_need_s == pytest.approx(0.3)
    for _ in range(20):
        ahead.note_critical(0.5)
    assert ahead.correction == 1, "sooner than expected is no reason to trust in it"


def test_parts_are_as_slow_as_half_of_the_recent_ones():
    clock = Clock()
    ahead = RunAhead(clock)
    assert ahead.part_factor == PART_FACTOR, "nothing is known"
    for took in (0.1, 0.2, 0.3, 0.2, 0.9):
        ahead.note_part(1.0 - OVERHEAD_S, took)
    assert ahead.part_factor == pytest.approx(0.2)
    clock.now += PARTS_RECENT_S + 1
    assert ahead.part_factor == PART_FACTOR
