"""`bench.live` counts a gap where audio was late, and none where its writer was."""

from __future__ import annotations

import pytest

from bench.live import Typed


def heard(known: list[float], *frames: tuple[float, float, int]) -> Typed:
    """Return a text whose pieces were known and heard so: frames are when they came, seconds, and piece."""
    return Typed(known, list(frames))


def test_audio_in_time_is_no_gap():
    one = heard([0, 1], (1, 1.5, 0), (2.0, 0.5, 0), (2.9, 2, 1))
    assert one.gaps() == [] and one.waits() == []


def test_audio_that_comes_after_the_listener_ran_dry_is_a_gap():
    one = heard([0, 1, 2], (1, 2, 0), (3.5, 2, 1), (6.25, 1, 2))
    assert one.gaps() == [(1, pytest.approx(0.5)), (2, pytest.approx(0.75))] and one.waits() == []


def test_a_gap_shifts_all_that_follows():
    one = heard([0, 1, 2], (1, 2, 0), (4, 2, 1), (5.9, 1, 2))
    assert [piece for piece, _ in one.gaps()] == [1], "the second one began to be heard at 4, not at 3"


def test_a_writer_who_is_late_makes_no_gap():
    one = heard([0, 5], (1, 2, 0), (6.5, 2, 1))
    assert one.gaps() == [] and one.waits() == [pytest.approx(1.5)]
