"""Seams between pieces of speech: no step, the pause that was asked for, and the speech itself untouched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech.joining import CLAUSE_PAUSE_S, EDGE_S, SENTENCE_PAUSE_S, WORD_PAUSE_S, Joiner, join, pause_after

RATE = 24_000
FADE = round(0.005 * RATE)


def tone(hertz: float, seconds: float, phase: float = 0.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE + phase)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def largest_step(samples: np.ndarray) -> float:
    return float(np.abs(np.diff(samples, prepend=0, append=0)).max())


def gaps(samples: np.ndarray) -> list[int]:
    """The lengths of the silences inside."""
    sound = np.flatnonzero(np.abs(samples) > 1e-3)
    return [int(gap) for gap in np.diff(sound) - 1 if gap > RATE // 50]


@pytest.mark.parametrize("hertz", [80, 120, 440, 3000])
@pytest.mark.parametrize("phase", np.linspace(0, 2 * np.pi, 7))
@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_tones_cut_anywhere_make_no_step_larger_than_their_own(hertz, phase, pause_s):
    pieces = [tone(hertz, 0.3, phase), tone(hertz, 0.2137, phase + 2), tone(hertz, 0.3, phase + 4)]
    inside = max(float(np.abs(np.diff(piece)).max()) for piece in pieces)
    assert largest_step(join(pieces, RATE, pause_s)) <= inside * 1.001
    assert largest_step(np.concatenate(pieces)) > inside * 1.001 or hertz == 3000, "without the fades there are some"


@pytest.mark.parametrize("offset", [0.3, -0.02, 0.002])
def test_a_piece_beside_zero_makes_no_step(offset):
    pieces = [tone(200, 0.3) + np.float32(offset), tone(200, 0.3) - np.float32(offset)]
    inside = float(np.abs(np.diff(pieces[0])).max())
    assert largest_step(join(pieces, RATE)) <= inside * 1.001 + abs(offset) * np.pi / 2 / FADE
    held = np.full(RATE, offset, np.float32)
    assert largest_step(join([held, -held], RATE)) <= abs(offset) * np.pi / 2 / FADE * 1.001


@pytest.mark.parametrize("before", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("after", [0.0, 0.02, 0.7])
@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.2, 0.45])
def test_the_pause_is_the_one_asked_for_whatever_silence_came(before, after, pause_s):
    # A frame of 10 ms may be half sound, and a fade at the very edge is quiet: both count as sound's, within 20 ms.
    piece = np.concatenate([silence(before), tone(300, 0.4), silence(after)])
    joined = join([piece, piece], RATE, pause_s)
    found = gaps(joined)
    if pause_s <= 0.05:
        assert all(gap <= pause_s * RATE + 0.02 * RATE for gap in found)
    else:
        assert len(found) == 1 and abs(found[0] - pause_s * RATE) <= 0.02 * RATE


def test_a_pause_may_be_given_with_each_piece():
    joiner, piece = Joiner(RATE), tone(300, 0.4)
    joined = np.concatenate(
        [
            joiner.add(piece, CLAUSE_PAUSE_S),
            joiner.add(piece, 1.0),
            joiner.add(piece),
            joiner.add(piece),
            joiner.finish(),
        ]
    )
    assert np.allclose(np.array(gaps(joined)) / RATE, [CLAUSE_PAUSE_S, 1.0, SENTENCE_PAUSE_S], atol=0.01)


def test_the_inside_of_a_piece_is_as_it_was():
    noise = np.random.default_rng(3).standard_normal(RATE).astype(np.float32) * 0.1
    noise[8000:14000] = 0  # a silence inside is the speaker's own
    piece = np.concatenate([silence(0.3), noise, silence(0.4)])
    kept = piece.copy()
    joined = join([piece, piece], RATE)
    assert np.array_equal(piece, kept), "the caller's samples are not touched"
    lead = round(EDGE_S * RATE)
    assert np.array_equal(joined[lead : lead + RATE], noise)
    assert np.array_equal(joined[-lead - RATE : -lead], noise)
    assert len(joined) == 2 * RATE + 2 * lead + round(SENTENCE_PAUSE_S * RATE)


def test_only_the_fade_is_changed_of_a_piece_without_silence():
    piece = np.random.default_rng(4).standard_normal(RATE).astype(np.float32) * 0.1
    joined = join([piece], RATE)
    assert len(joined) == RATE and np.array_equal(joined[FADE:-FADE], piece[FADE:-FADE])
    assert np.all(np.abs(joined) <= np.abs(piece))


def test_silent_pieces_leave_nothing_behind():
    piece = tone(300, 0.4)
    assert len(join([], RATE)) == len(join([silence(1), silence(0)], RATE)) == 0
    with_silence = join([silence(0.5), piece, silence(2), silence(0), piece, silence(1)], RATE)
    assert np.array_equal(with_silence, join([piece, piece], RATE))


def test_hiss_below_speech_is_silence():
    hiss = np.random.default_rng(5).standard_normal(RATE).astype(np.float32) * 0.001
    piece = np.concatenate([hiss, tone(300, 0.4), hiss])
    assert len(join([piece], RATE)) == pytest.approx((0.4 + 2 * EDGE_S) * RATE, abs=0.02 * RATE)


def test_parts_come_out_early_and_a_piece_left_open_is_closed():
    joiner = Joiner(RATE)
    first = joiner.add(tone(300, 1.0), last=False)
    assert len(first) >= 0.98 * RATE
    rest = joiner.finish()
    assert len(first) + len(rest) == RATE and abs(rest[-1]) < 1e-3
    assert len(joiner.finish()) == 0


PIECES = st.lists(
    st.tuples(
        st.integers(0, 9000), st.integers(0, 5000), st.integers(0, 9000), st.sampled_from([0.0, 0.03, 0.08, 0.3])
    ),
    max_size=4,
)


@settings(deadline=None, derandomize=True)
@given(PIECES, st.lists(st.integers(1, 4000), max_size=20))
def test_origin_tells_where_each_piece_lies_in_the_output(sizes, steps):
    """Whatever is sound in a piece is found again, sample for sample, where `origin` says, whole or in parts."""
    joiner, out, found = Joiner(RATE), [], []
    for number, (before, sound, after, pause_s) in enumerate(sizes):
        noise = np.random.default_rng(number).uniform(0.1, 0.5, sound).astype(np.float32)
        piece = np.concatenate([np.zeros(before, np.float32), noise, np.zeros(after, np.float32)])
        at = 0
        for step in steps:
            if at + step >= len(piece):
                break
            out.append(joiner.add(piece[at : at + step], pause_s, last=False))
            at += step
        out.append(joiner.add(piece[at:], pause_s))
        assert (joiner.origin is None) == (sound == 0)
        if joiner.origin is not None:
            found.append((piece, before, sound, joiner.origin, joiner.kept))
    whole = np.concatenate([*out, joiner.finish()]) if out else np.zeros(0, np.float32)
    for piece, before, sound, origin, (first, end) in found:
        assert first <= origin + before and origin + before + sound <= end <= len(whole)
        steady = slice(before + FADE, before + sound - FADE)
        if sound > 2 * FADE:
            assert np.array_equal(whole[origin + steady.start : origin + steady.stop], piece[steady])


@settings(deadline=None, derandomize=True)
@given(PIECES, st.lists(st.integers(1, 3000), min_size=1, max_size=6))
def test_parts_give_what_whole_pieces_give(sizes, steps):
    random = np.random.default_rng(6)
    whole, parts = Joiner(RATE), Joiner(RATE)
    expected, found = [], []
    for before, sound, after, pause_s in sizes:
        piece = np.concatenate([np.zeros(before), random.standard_normal(sound) * 0.1, np.zeros(after)])
        piece = piece.astype(np.float32)
        expected.append(whole.add(piece, pause_s))
        at = index = 0
        while at < len(piece):
            step = steps[index % len(steps)]
            found.append(parts.add(piece[at : at + step], last=False))
            at, index = at + step, index + 1
        found.append(parts.add(piece[:0], pause_s))
    assert np.array_equal(np.concatenate([*expected, whole.finish()]), np.concatenate([*found, parts.finish()]))


@pytest.mark.parametrize(
    "text, pause_s",
    [
        ("It ends.", SENTENCE_PAUSE_S),
        ("“好。”", SENTENCE_PAUSE_S),
        ("真的？", SENTENCE_PAUSE_S),
        ("« Oui. »", SENTENCE_PAUSE_S),
        ("<strong>Yes!</strong> [breath]", SENTENCE_PAUSE_S),
        ("Well…", SENTENCE_PAUSE_S),
        ("first,", CLAUSE_PAUSE_S),
        ("首先，", CLAUSE_PAUSE_S),
        ("he said:", CLAUSE_PAUSE_S),
        ("a word", WORD_PAUSE_S),
        ("爱好[h][ào]", WORD_PAUSE_S),
        ("", WORD_PAUSE_S),
    ],
)
def test_the_pause_behind_a_text_follows_its_end(text, pause_s):
    assert pause_after(text) == pause_s
