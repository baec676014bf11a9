"""Moves words' edges to where the sound has them, by at most the gap beside them and a phoneme.

An engine's durations say which phoneme is said when, but not where a sound dies away before a pause. Nor do they say
which of two words the short space between them sounds like: a hiss behind a vowel begins with the space, and one before
a vowel ends with it. The waveform shows both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from speech.words import Timings

_STEP_SECONDS = 0.005
_SILENCE_DB = -40.0  #: below the loudest step
#: A shorter silence between two words is the closure of a stop, as in "the cat", and no pause.
_PAUSE_SECONDS = 0.1
_WINDOW_SECONDS = 0.02
#: edges of the bands in which sounds are told apart, in steps of 1 / _WINDOW_SECONDS: from 100 Hz to 11 kHz
_BANDS = np.unique(np.geomspace(2, 221, 25).round().astype(int))
_RANGE_DB = 60.0  #: what is softer than the loudest band by more than this counts the same

Wave = NDArray[np.float32]


def heard_in(timings: Timings, samples: NDArray[np.int16] | Wave, rate: int) -> Timings:
    """Return the times with the units' edges (words', or Chinese characters') as they are heard.

    A unit before a pause ends where the sound has died away, and the next begins where it rises again. Two units with a
    gap between them but no pause touch where the spectrum changes most. Without a gap they stay as they are.

    Args:
        timings: the times in `samples`.
        samples: mono (n,), at any level.
        rate: Hz.
    """
    if not len(timings.times):
        return timings
    sound = _Sound(np.asarray(samples, np.float32), rate)
    starts, ends = np.clip(timings.times.astype(float), 0, sound.seconds).T.copy()
    first, last = _outer_phonemes(timings)
    for place in range(len(starts) + 1):
        before, after = place - 1 if place else None, place if place < len(starts) else None
        gap = 0.0 if before is None else ends[before], sound.seconds if after is None else starts[after]
        reach = 0.0 if before is None else last[before, 0], sound.seconds if after is None else first[after, 1]
        pause = sound.silence(gap, reach, 0.0 if before is None or after is None else _PAUSE_SECONDS)
        if pause is None and before is not None and after is not None and gap[0] < gap[1]:
            pause = (sound.change(last[before].mean(), first[after].mean()),) * 2
        if pause is None:
            continue
        if before is not None:
            ends[before] = pause[0]
        if after is not None:
            starts[after] = pause[1]
    # An edge that was moved past its neighbour leaves a unit without length; the next begins behind it all the same.
    ordered = np.maximum.accumulate(np.stack([starts, ends], 1).ravel())
    starts, ends = np.clip(ordered, 0, sound.seconds).reshape(-1, 2).T
    return replace(
        timings,
        times=np.stack([starts, ends], 1).astype(np.float32),
        phoneme_times=_within(timings, starts, ends),
    )


def settled(timings: Timings, seconds: float) -> int:
    """Return how many of the units `heard_in` moves as it would with all of the sound, given only its beginning.

    A unit's end depends on the sound up to the end of the next one's first phoneme. The last unit's depends on all of
    it. Power counts in relation to the loudest step, so a pause's edge may still differ by a step or two.

    Args:
        timings: the times in the whole sound.
        seconds: length of the beginning.
    """
    if len(timings.times) < 2:
        return 0
    first, _ = _outer_phonemes(timings)
    return int((np.maximum.accumulate(first[1:, 1]) + _WINDOW_SECONDS / 2 <= seconds).sum())


def _outer_phonemes(timings: Timings) -> tuple[np.ndarray, np.ndarray]:
    """Return the times of each unit's first and last phoneme, (u, 2) each; those of the unit where none are known."""
    first, last = timings.times.astype(float), timings.times.astype(float)
    units = timings.phoneme_units
    found, place = np.unique(units, return_index=True)
    first[found] = timings.phoneme_times[place]
    last[found] = timings.phoneme_times[len(units) - 1 - np.unique(units[::-1], return_index=True)[1]]
    return first, last


def _within(timings: Timings, starts: np.ndarray, ends: np.ndarray) -> NDArray[np.float32]:
    """Return the phonemes' times, of which each unit's first and last take its new edges."""
    times, units = timings.phoneme_times.astype(float), timings.phoneme_units
    borders = units[1:] != units[:-1]
    first, last = np.concatenate([[True], borders])[: len(units)], np.concatenate([borders, [True]])[: len(units)]
    times[first, 0] = starts[units[first]]
    times[last, 1] = ends[units[last]]
    inside = np.clip(times, starts[units, None], ends[units, None])
    # A phoneme that lost its length to a moved edge lies where its neighbour ends.
    ordered: NDArray[np.float32] = np.maximum.accumulate(inside.ravel()).reshape(-1, 2).astype(np.float32)
    return ordered


class _Sound:
    """A waveform, its silences, and the changes in its spectrum."""

    def __init__(self, wave: Wave, rate: int) -> None:
        self._wave = wave
        self._rate = rate
        self._step = round(_STEP_SECONDS * rate)
        power = np.square(wave[: len(wave) // self._step * self._step].reshape(-1, self._step)).mean(1)
        quiet = power <= power.max(initial=0.0) * 10 ** (_SILENCE_DB / 10)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
        self.seconds = len(wave) / rate
        self._silences = edges.reshape(-1, 2) * (self._step / rate)
        if len(power) and quiet[-1]:
            self._silences[-1, 1] = self.seconds  # less than a step is left over

    def silence(
        self, gap: tuple[float, float], reach: tuple[float, float], shortest_s: float
    ) -> tuple[float, float] | None:
        """Return the longest silence that touches a gap, as far as it lies within `reach`, in seconds; None if short.

        A silence at the audio's edge reaches as far as the audio.
        """
        found = [
            (max(start, reach[0]), min(end, reach[1]))
            for start, end in self._silences.tolist()
            if start <= gap[1] and end >= gap[0]
        ]
        longest = max(found, key=lambda one: one[1] - one[0], default=None)
        return longest if longest and longest[1] - longest[0] >= max(shortest_s, _STEP_SECONDS / 2) else None

    def change(self, start_s: float, end_s: float) -> float:
        """Return the second between these two where the spectrum changes most.

        The sound between them is cut in two, so that each part differs least from its mean.
        """
        step = self._step / self._rate
        first = round(start_s / step)
        bands = self._bands(first, round(end_s / step))
        cuts = np.arange(1, len(bands))
        if not len(cuts):
            return (start_s + end_s) / 2
        sums = np.cumsum(bands, axis=0)
        left, right = sums[cuts - 1], sums[-1] - sums[cuts - 1]
        alike = np.square(left).sum(1) / cuts + np.square(right).sum(1) / (len(bands) - cuts)
        return float((first + cuts[alike.argmax()]) * step)

    def _bands(self, first: int, last: int) -> np.ndarray:
        """Return the power of steps `first` to `last` in bands, dB, (steps, bands)."""
        size = round(_WINDOW_SECONDS * self._rate)
        middles = (np.arange(first, last) * self._step + self._step // 2)[:, None]
        places = middles + np.arange(size) - size // 2
        inside = (places >= 0) & (places < len(self._wave))
        frames = np.where(inside, self._wave[np.clip(places, 0, len(self._wave) - 1)], 0) * np.hanning(size)
        power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
        edges = _BANDS[_BANDS < power.shape[1]]
        decibels = 10 * np.log10(np.add.reduceat(power, edges, axis=1)[:, : len(edges) - 1] + 1e-20)
        floored: np.ndarray = np.maximum(decibels, decibels.max(initial=-200.0) - _RANGE_DB)
        return floored
