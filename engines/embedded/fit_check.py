"""Checks that a fitted voice is a better one: nearer to its speaker, and the same sounds as clean and as loud.

Both voices speak the same passages, none of which was fitted. Their durations and melody are the same, since a fit
leaves them alone: no sound can be skipped or repeated. So a fitted voice is compared with the steered one moment by
moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.embedded.pitch import f0_curve
from engines.mel import mel_filters

RATE = 16_000
FFT, HOP = 512, 160
LOWEST_BIN = 4  #: 125 Hz
BANDS = 40
LOUD_DB = 25.0  #: frames within this of the loudest are speech
LONG, LONG_FFT = 640, 2048  #: 40 ms hold two periods of the lowest voice
PERIODS = slice(40, 260)  #: 62 to 400 Hz
_BRIGHT = slice(32, 128)  # 1 to 4 kHz
_DEEPEST_DB = 60.0  # what lies deeper below the loudest moment is not heard
_SILENT_DB = -40.0  # quieter moments are silence, however quiet


@dataclass(frozen=True)
class Limits:
    """The largest changes that a kept voice may show against the steered one.

    `cepstral_peak` and `articulation` are set by 23 fits of five speakers. Over 22 of these they go with the change of
    DNSMOS (correlation 0.90 and 0.87). Each fit that lost more than 0.1 fails one of them. See docs/speed.md.
    """

    similarity: float = 0.02  #: the least gain
    level_db: float = 3.0
    peak_db: float = 1.0  #: raw, above full scale: the limiter would make the whole speech quieter by it
    flatness_db: float = 1.5  #: of speech: a room's or a microphone's noise makes the spectrum flatter
    brightness_db: float = -6.0  #: of 1 to 4 kHz against the whole: a voice that loses more is dull
    harmonics_db: float = -1.5  #: against the noise between them: a voice that loses more is hoarse
    cepstral_peak: float = -0.015  #: nepers: how much less the harmonics stand out
    floor_db: float = 8.0  #: of the quiet moments, against the loud ones, from -40 dB up
    articulation: float = 0.86  #: the least correlation of the spectra over time
    pitch_semitones: float = 1.0
    unvoiced: float = 0.4  #: share of frames that lose their pitch; the tracker loses some in clean speech too


LIMITS = Limits()
NOT_NEARER = "it is hardly nearer to the speaker"


@dataclass(frozen=True)
class Sound:
    """Holds the measures of one passage."""

    similarity: float  #: cosine to the speaker's d-vector
    level_db: float
    peak_db: float
    flatness_db: float
    brightness_db: float
    harmonics_db: float
    cepstral_peak: float
    floor_db: float
    spectra: np.ndarray  #: (frames, 40) log mel power in dB
    f0: np.ndarray  #: (frames,) Hz, 0 without a pitch


def listen(samples: np.ndarray, similarity: float) -> Sound:
    """Measure a passage, float32 (n,) at 16 kHz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FFT)[::HOP] * np.hanning(FFT)
    power = np.abs(np.fft.rfft(frames)) ** 2
    energy_db = 10 * np.log10(power.sum(1) + 1e-8)
    loud = energy_db > energy_db.max() - LOUD_DB
    heard = power[loud][:, LOWEST_BIN:] + 1e-10
    flatness = 10 * (np.log10(heard).mean(1) - np.log10(heard.mean(1)))
    spectra = 10 * np.log10(power @ mel_filters(RATE, FFT, BANDS).T + 1e-8)
    harmonics, cepstral_peak = _periodicity(samples, np.flatnonzero(loud))
    return Sound(
        similarity=similarity,
        level_db=float(10 * np.log10(np.square(samples).mean() + 1e-10)),
        peak_db=float(20 * np.log10(np.abs(samples).max() + 1e-10)),
        flatness_db=float(flatness.mean()),
        brightness_db=float(10 * np.log10(power[loud][:, _BRIGHT].sum() / (power[loud].sum() + 1e-10) + 1e-6)),
        harmonics_db=harmonics,
        cepstral_peak=cepstral_peak,
        floor_db=max(float(np.percentile(energy_db, 5) - np.percentile(energy_db, 95)), _SILENT_DB),
        spectra=spectra,
        f0=f0_curve(samples),
    )


def changes(steered: Sequence[Sound], fitted: Sequence[Sound]) -> dict[str, float]:
    """Return what a fit changed, by the names of `Limits`: the mean over the passages, but the highest peak."""
    pairs = list(zip(steered, fitted, strict=True))
    measured = {
        **{
            name: [getattr(after, name) - getattr(before, name) for before, after in pairs]
            for name in (
                "similarity",
                "level_db",
                "flatness_db",
                "brightness_db",
                "harmonics_db",
                "cepstral_peak",
                "floor_db",
            )
        },
        "articulation": [_articulation(before, after) for before, after in pairs],
        "pitch_semitones": [_semitones(before, after) for before, after in pairs],
        "unvoiced": [_lost(before, after) for before, after in pairs],
    }
    return {
        **{name: float(np.mean(values)) for name, values in measured.items()},
        "peak_db": max(after.peak_db for after in fitted),
    }


def why_not(changes: Mapping[str, float], limits: Limits = LIMITS) -> str:
    """Return the first reason, in words, not to keep a fitted voice; empty if it is better than the steered one."""
    reasons = (
        (changes["similarity"] < limits.similarity, NOT_NEARER),
        (abs(changes["level_db"]) > limits.level_db, "its loudness is another"),
        (changes["peak_db"] > limits.peak_db, "its peaks would be clipped"),
        (changes["flatness_db"] > limits.flatness_db, "it took over noise from the clip"),
        (changes["brightness_db"] < limits.brightness_db, "it is dull"),
        (changes["floor_db"] > limits.floor_db, "its pauses are noisy"),
        (changes["harmonics_db"] < limits.harmonics_db, "its harmonics drown in noise"),
        (changes["cepstral_peak"] < limits.cepstral_peak, "its harmonics are blurred"),
        (changes["articulation"] < limits.articulation, "its sounds are less distinct"),
        (abs(changes["pitch_semitones"]) > limits.pitch_semitones, "its pitch is another"),
        (changes["unvoiced"] > limits.unvoiced, "it is hoarse"),
    )
    return next((reason for failed, reason in reasons if failed), "")


def _periodicity(samples: np.ndarray, frames: np.ndarray) -> tuple[float, float]:
    """Measure how much of a voice is harmonic, over the given frames.

    Returns:
        The power of what repeats with a period of 2.5 to 16 ms against the rest, in dB (P. Boersma, 1993: the highest
        autocorrelation over that of the window), and the highest cepstrum at these periods, in nepers. Both are the
        mean over frames of 40 ms.
    """
    frames = frames[frames * HOP + LONG <= len(samples)]
    if not len(frames):
        return 0.0, 0.0
    window = np.hanning(LONG)
    cut = np.lib.stride_tricks.sliding_window_view(samples, LONG)[frames * HOP]
    spectra = np.abs(np.fft.rfft((cut - cut.mean(1, keepdims=True)) * window, LONG_FFT)) ** 2
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, LONG_FFT)) ** 2)[PERIODS]
    repeated = np.fft.irfft(spectra)
    share = repeated[:, PERIODS] / (repeated[:, :1] + 1e-12) * (window @ window) / of_window
    best = share.max(1).clip(1e-3, 0.999)
    cepstra = np.fft.irfft(np.log(spectra + 1e-9))[:, PERIODS]
    return float((10 * np.log10(best / (1 - best))).mean()), float(cepstra.max(1).mean())


def _articulation(before: Sound, after: Sound) -> float:
    """Correlate how the spectra move over time, with the timbre, the mean of each band, taken out."""
    one, other = (np.maximum(sound.spectra, sound.spectra.max() - _DEEPEST_DB) for sound in (before, after))
    return float(np.corrcoef((one - one.mean(0)).ravel(), (other - other.mean(0)).ravel())[0, 1])


def _semitones(before: Sound, after: Sound) -> float:
    both = (before.f0 > 0) & (after.f0 > 0)
    return float(12 * np.median(np.log2(after.f0[both] / before.f0[both]))) if both.any() else 0.0


def _lost(before: Sound, after: Sound) -> float:
    voiced = before.f0 > 0
    return float((after.f0[voiced] == 0).mean()) if voiced.any() else 0.0
