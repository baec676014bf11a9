"""The pitch of a voice is one number for a clip, the median of its fundamental frequency.

The estimator is YIN (A. de Cheveigné and H. Kawahara, "YIN, a fundamental frequency estimator for speech and music",
J. Acoust. Soc. Am. 111(4), 2002), steps 1 to 5, computed for all frames at once with FFTs. It needs numpy only.
"""

from __future__ import annotations

import numpy as np

RATE = 16_000  #: Hz of the samples
LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
_WINDOW = 400  #: samples summed per lag: 25 ms, as in the paper
_HOP = 160  #: 10 ms
_THRESHOLD = 0.15  #: a dip of the normalised difference below this is a period (the paper's step 4: 0.1 to 0.15)
_QUIET_DB = 30.0  #: frames this far below the loud ones get no pitch
_MIN_VOICED = 15  #: frames; 0.15 s of voiced sound
_BAND_HZ = (50.0, 1200.0)  #: keeps hum and hiss out of the comparison


def median_log_f0(samples: np.ndarray) -> float | None:
    """Return ln of the median F0 in Hz of mono float32 (n,) samples at 16 kHz; None if nothing is voiced."""
    f0 = f0_curve(samples)
    voiced = np.log(f0[f0 > 0])
    if len(voiced) < _MIN_VOICED:
        return None
    # A second pass leaves out frames that are about an octave off: typical errors of such an estimator.
    median = np.median(voiced)
    return float(np.median(voiced[np.abs(voiced - median) < 0.5]))


def f0_curve(samples: np.ndarray) -> np.ndarray:
    """Estimate F0 in Hz, float64 (frames,), one frame every 10 ms; 0 for a quiet frame or without a clear period."""
    longest = int(RATE / LOWEST_HZ)
    shortest = int(RATE / HIGHEST_HZ)
    span = _WINDOW + longest + 1
    if len(samples) < span:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(_band_limited(samples), span)[::_HOP]
    power = (frames[:, :_WINDOW] ** 2).mean(axis=1)
    loud = power > np.percentile(power, 95) * 10 ** (-_QUIET_DB / 10)
    f0 = np.zeros(len(frames))
    if power.max() > 1e-10 and loud.any():
        f0[loud] = RATE / _periods(frames[loud], shortest, longest)
    return f0


def _band_limited(samples: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(samples.astype(np.float64))
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum[(frequency < _BAND_HZ[0]) | (frequency > _BAND_HZ[1])] = 0
    return np.fft.irfft(spectrum, len(samples))


def _periods(frames: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """Find the period in samples of each frame (n, window + longest + 1); inf if it has none."""
    dips = _normalised_difference(frames, longest + 1)
    here, before, after = dips[:, 1:-1], dips[:, :-2], dips[:, 2:]  # lag 1 … longest
    is_period = (here < _THRESHOLD) & (here <= before) & (here < after)
    is_period[:, : shortest - 1] = False
    lag = is_period.argmax(axis=1)  # the first dip deep enough, not the deepest: multiples of the period dip as well
    row = np.arange(len(frames))
    left, middle, right = before[row, lag], here[row, lag], after[row, lag]
    shift = 0.5 * (left - right) / np.maximum(left - 2 * middle + right, 1e-12)  # the parabola's vertex
    return np.where(is_period.any(axis=1), lag + 1 + np.clip(shift, -0.5, 0.5), np.inf)


def _normalised_difference(frames: np.ndarray, longest: int) -> np.ndarray:
    """Compute the paper's eq. 8, the cumulative mean normalised difference: (n, longest + 1) for lags 0 … longest."""
    size = 1 << int(np.ceil(np.log2(frames.shape[1])))
    head = np.fft.rfft(frames[:, :_WINDOW], size)
    correlation = np.fft.irfft(head.conj() * np.fft.rfft(frames, size), size)[:, : longest + 1]
    cumulative = np.pad(np.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))
    energy = cumulative[:, _WINDOW : _WINDOW + longest + 1] - cumulative[:, : longest + 1]
    difference = np.maximum(energy[:, :1] + energy - 2 * correlation, 0)
    lags = np.arange(1, longest + 1)
    normalised = np.ones_like(difference)
    normalised[:, 1:] = difference[:, 1:] * lags / np.maximum(np.cumsum(difference[:, 1:], axis=1), 1e-12)
    return normalised
