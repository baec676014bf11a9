"""Words' edges are where the sound has them: at pauses, and between two sounds without one."""

from __future__ import annotations

import numpy as np
import pytest

from speech.word_edges import heard_in, settled
from speech.words import Timings

RATE = 24_000


def voice(seconds: float, hertz: float = 150.0) -> np.ndarray:
    """A vowel: harmonics up to 1.5 kHz."""
    at = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * hertz * number * at) / number for number in range(1, 11)) * 0.2


def hiss(seconds: float) -> np.ndarray:
    """Noise above 5 kHz."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / RATE) < 5000] = 0
    return np.fft.irfft(spectrum, len(noise)) * 0.1


def silence(seconds: float) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(round(seconds * RATE)) * 1e-4


def timed(*words: tuple[float, ...]) -> Timings:
    """Make words of phonemes that lie at these times, one behind the other."""
    phonemes = [
        (unit, start, end) for unit, edges in enumerate(words) for start, end in zip(edges, edges[1:], strict=False)
    ]
    return Timings(
        spans=np.array([(place, place + 1) for place in range(len(words))], np.int32),
        words=np.arange(len(words), dtype=np.int32),
        times=np.array([(word[0], word[-1]) for word in words], np.float32),
        symbols=tuple("a" for _ in phonemes),
        phoneme_units=np.array([unit for unit, _, _ in phonemes], np.int32),
        phoneme_times=np.array([one[1:] for one in phonemes], np.float32).reshape(-1, 2),
    )


def check(found: Timings, expected: list[tuple[float, float]], within_s: float = 0.011) -> None:
    np.testing.assert_allclose(found.times, expected, atol=within_s)
    for unit, (start, end) in enumerate(found.times):
        inside = found.phoneme_times[found.phoneme_units == unit]
        if len(inside):
            assert (inside[0, 0], inside[-1, 1]) == (start, end)
            assert (np.diff(inside.ravel()) >= 0).all()


@pytest.mark.parametrize("level", [1.0, 0.01])
@pytest.mark.parametrize("form", ["float", "int16"])
def test_a_word_before_a_pause_ends_where_its_sound_does(level, form):
    """The durations let the last sound ring on into the pause, and begin the next too early."""
    wave = np.concatenate([silence(0.08), voice(0.4), silence(0.3), voice(0.3), silence(0.08)]) * level
    sound = (wave * 32767).round().astype(np.int16) if form == "int16" else wave.astype(np.float32)
    found = heard_in(timed((0.05, 0.3, 0.65), (0.7, 0.9, 1.16)), sound, RATE)
    check(found, [(0.08, 0.48), (0.78, 1.08)])


def test_a_sound_that_goes_on_into_the_gap_is_the_words():
    wave = np.concatenate([voice(0.5), silence(0.2), voice(0.3)])
    check(heard_in(timed((0.0, 0.2, 0.4), (0.75, 1.0)), wave, RATE), [(0.0, 0.5), (0.7, 1.0)])


def test_an_edge_moves_by_one_phoneme_at_most():
    """A word has its place, even where the sound says otherwise."""
    wave = np.concatenate([voice(0.2), silence(0.6), voice(0.2)])
    found = heard_in(timed((0.0, 0.3, 0.4), (0.5, 0.6, 1.0)), wave, RATE)
    check(found, [(0.0, 0.3), (0.6, 1.0)])


@pytest.mark.parametrize("sounds", [(voice, hiss), (hiss, voice)])
@pytest.mark.parametrize("at", [0.40, 0.44, 0.48])
def test_words_without_a_pause_touch_where_the_sound_changes(sounds, at):
    """The space lies from 0.42 to 0.47; the change is in it or in the half phonemes beside it."""
    wave = np.concatenate([sounds[0](at), sounds[1](1.0 - at)])
    found = heard_in(timed((0.0, 0.3, 0.42), (0.47, 0.6, 1.0)), wave, RATE)
    check(found, [(0.0, at), (at, 1.0)])


def test_a_short_silence_is_a_stop_and_no_pause():
    """The silence lasts 60 ms; the words touch at one of its ends."""
    wave = np.concatenate([voice(0.4), silence(0.06), voice(0.54)])
    found = heard_in(timed((0.0, 0.3, 0.4), (0.44, 0.5, 1.0)), wave, RATE)
    assert found.times[0, 1] == found.times[1, 0]
    assert min(abs(found.times[0, 1] - end) for end in (0.4, 0.46)) < 0.011


def test_characters_without_a_gap_stay_where_they_are():
    wave = np.concatenate([voice(0.3), hiss(0.7)])
    times = timed((0.0, 0.5), (0.5, 1.0))
    check(heard_in(times, wave, RATE), times.times.tolist(), 1e-6)


@pytest.mark.parametrize(
    "wave",
    [silence(1.0), np.zeros(RATE), np.zeros(0), np.zeros(50), voice(1.0), hiss(0.3), np.full(RATE, 0.1)],
    ids=["noise", "zeros", "none", "two ms", "no pause", "short", "constant"],
)
def test_any_sound_leaves_the_times_in_order_and_in_the_audio(wave):
    times = timed((0.0, 0.1, 0.2), (0.2, 0.21), (0.3, 0.32), (0.5, 0.9), (0.9, 1.0))
    found = heard_in(times, wave.astype(np.float32), RATE)
    for one in (found.times, found.phoneme_times):
        assert np.isfinite(one).all() and (np.diff(one.ravel()) >= 0).all()
        assert one.min() >= 0 and one.max() <= len(wave) / RATE + 1e-6


@pytest.mark.parametrize("seed", range(60))
def test_words_never_overlap_however_short_they_and_their_gaps_are(seed):
    """Durations are frames of 25 ms: words of one frame, gaps of none, and sounds that change anywhere."""
    random = np.random.default_rng(seed)
    parts = [
        (voice, hiss, silence)[random.integers(3)](random.uniform(0.004, 0.15)) for _ in range(random.integers(1, 25))
    ]
    wave = np.concatenate(parts) * random.uniform(0.01, 1)
    words, at = [], random.uniform(0, 0.1)
    for _ in range(random.integers(1, 25)):
        edges = at + np.cumsum([0, *random.integers(0, 4, random.integers(1, 4))]) * 0.025
        words.append(tuple(edges))
        at = edges[-1] + random.choice([0, 0, 0.005, 0.025, 0.05, 0.2])
    found = heard_in(timed(*words), wave.astype(np.float32), RATE)
    assert (np.diff(found.times.ravel()) >= 0).all(), "units, one behind the other"
    assert found.times.min() >= 0 and found.times.max() <= len(wave) / RATE + 1e-6
    phonemes, units = found.phoneme_times, found.phoneme_units
    assert (np.diff(phonemes.ravel()) >= 0).all(), "and so are their phonemes"
    assert (phonemes[:, 0] >= found.times[units, 0]).all() and (phonemes[:, 1] <= found.times[units, 1]).all()


def test_words_without_phonemes_are_settled_too():
    """As those of an aligner would be."""
    spans = np.array([(0, 1), (2, 3)], np.int32)
    words = Timings(spans, np.arange(2, dtype=np.int32), np.array([(0.0, 0.6), (0.65, 1.0)], np.float32))
    wave = np.concatenate([voice(0.45), silence(0.25), voice(0.3)])
    check(heard_in(words, wave, RATE), [(0.0, 0.45), (0.7, 1.0)])
    nothing = Timings(spans[:0], words.words[:0], words.times[:0])
    assert heard_in(nothing, wave, RATE) is nothing


def test_a_unit_is_settled_when_the_next_ones_first_phoneme_was_heard():
    words = timed((0.0, 0.2, 0.4), (0.45, 0.55, 0.7), (0.7, 0.9, 1.0))
    assert [settled(words, seconds) for seconds in (0.0, 0.5, 0.559, 0.561, 0.9, 0.911, 1.0, 5.0)] == [
        0, 0, 0, 1, 1, 2, 2, 2,
    ]  # fmt: skip
    assert settled(timed(), 1.0) == settled(timed((0.0, 0.5)), 1.0) == 0, "the last one's end depends on all of it"


@pytest.mark.parametrize("length", [0.57, 0.7, 0.94, 1.1])
def test_settled_units_lie_where_the_whole_sound_has_them(length):
    wave = np.concatenate([silence(0.05), voice(0.37), hiss(0.3), silence(0.15), voice(0.3), silence(0.1)])
    words = timed((0.0, 0.2, 0.4), (0.45, 0.55, 0.75), (0.8, 0.92, 1.2))
    whole, begun = heard_in(words, wave, RATE), heard_in(words, wave[: round(length * RATE)], RATE)
    count = settled(words, length)
    assert count == (1 if length < 0.94 else 2)
    np.testing.assert_allclose(begun.times[:count], whole.times[:count], atol=0.0051)
