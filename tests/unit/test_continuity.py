"""The play-out clock of a stream, on a clock of the test's own."""

from __future__ import annotations

import pytest

from deployments.ingress.continuity import Continuity


class Stream:
    """A stream whose parts are sent at the times that a test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.began: list[float] = []
        self.continuity = Continuity(lambda: self.now, lambda ago_s: self.began.append(self.now - ago_s - 100.0))

    def send(self, at: float, seconds: float, blocked: float = 0.0) -> None:
        self.now = max(self.now, 100.0 + at)
        with self.continuity.sending(seconds):
            self.now += blocked


def test_audio_that_comes_in_time_is_continuous():
    stream = Stream()
    for at in (0.0, 1.5, 3.9):
        stream.send(at, 2.0)
    found = stream.continuity
    assert found.continuous and (found.gaps, found.underrun_s, found.longest_gap_s) == (0, 0, 0)
    assert found.smallest_margin_s == pytest.approx(0.1) and found.seconds == 6
    assert found.margin_s == pytest.approx(6 - 3.9)


def test_a_late_part_makes_a_gap_and_everything_after_it_is_heard_later():
    stream = Stream()
    for at in (0.0, 2.5, 4.4, 7.5):  # due at 2, 4.5, 6.5
        stream.send(at, 2.0)
    found = stream.continuity
    assert not found.continuous and found.gaps == 2
    assert found.underrun_s == pytest.approx(0.5 + 1.0) and found.longest_gap_s == pytest.approx(1.0)
    assert found.smallest_margin_s == pytest.approx(-1.0)
    assert stream.began == pytest.approx([2.0, 6.5])


def test_nothing_is_said_of_a_stream_without_audio():
    stream = Stream()
    stream.send(3.0, 0.0)
    stream.continuity.end(whole=False)
    assert not stream.continuity.started and stream.continuity.smallest_margin_s is None and stream.continuity.gaps == 0


def test_bytes_without_audio_are_no_part():
    stream = Stream()
    stream.send(0.0, 1.0)
    stream.send(9.0, 0.0)  # an encoder's last bytes
    assert stream.continuity.continuous and stream.continuity.smallest_margin_s is None


def test_a_write_without_audio_is_the_clients_time_too():
    stream = Stream()
    stream.send(0.0, 1.0)
    stream.send(0.5, 0.0, blocked=5.0)  # an event of progress
    stream.send(0.0, 1.0)
    assert stream.continuity.continuous and stream.continuity.smallest_margin_s == 0
    stream.send(8.5, 0.0, blocked=5.0)  # two seconds into a gap
    stream.send(13.8, 1.0)
    assert stream.continuity.underrun_s == pytest.approx(2.0 + 0.3)


def test_a_client_that_does_not_take_what_is_ready_makes_no_gap():
    stream = Stream()
    stream.send(0.0, 1.0, blocked=5.0)
    stream.send(0.0, 1.0, blocked=5.0)  # ready long ago: sent as soon as the first one is taken
    stream.send(0.0, 1.0)
    assert stream.now == 110.0
    assert stream.continuity.continuous and stream.continuity.smallest_margin_s == pytest.approx(1.0)


def test_a_gap_of_ours_is_seen_behind_a_slow_client_too():
    stream = Stream()
    stream.send(0.0, 1.0, blocked=5.0)
    stream.send(7.5, 1.0)  # taken at 5, played until 6
    assert stream.continuity.underrun_s == pytest.approx(1.5)


def test_a_client_that_takes_audio_at_the_pace_of_its_player_hides_no_stall_for_longer_than_a_part():
    stream = Stream()
    for _ in range(20):
        stream.send(0.0, 1.0, blocked=1.0)
    stream.send(20 + 3.0, 1.0)
    assert stream.continuity.underrun_s == pytest.approx(3.0 - 1.0)


def test_a_stream_that_breaks_off_while_its_listener_waits_has_a_gap():
    left, whole = Stream(), Stream()
    for stream in (left, whole):
        stream.send(0.0, 1.0)
        stream.now += 4.0
    left.continuity.end(whole=False)
    left.continuity.end(whole=False)
    whole.continuity.end()
    whole.continuity.end(whole=False)
    assert (left.continuity.gaps, left.continuity.underrun_s) == (1, pytest.approx(3.0))
    assert whole.continuity.continuous, "nothing was to come"


def test_a_client_that_leaves_while_it_takes_a_part_has_heard_no_gap():
    stream = Stream()
    stream.send(0.0, 1.0)
    with pytest.raises(ConnectionError), stream.continuity.sending(1.0):
        stream.now += 9.0
        stream.continuity.end(whole=False)
        raise ConnectionError
    assert stream.continuity.continuous


def test_text_that_comes_late_begins_a_new_play_out():
    stream = Stream()
    stream.send(0.0, 1.0)
    with stream.continuity.waiting_for_text():
        stream.now += 3.0
    stream.now += 0.4  # to speak it
    stream.send(0.0, 1.0)
    assert stream.continuity.continuous
    with stream.continuity.waiting_for_text():
        stream.now += 0.5
    stream.now += 0.8  # the text came in time, its audio did not
    stream.send(0.0, 1.0)
    assert stream.continuity.underrun_s == pytest.approx(0.3)
