"""Makes a clean synthetic clip sound like a recording, with a microphone's colour, a small room and noise."""

from __future__ import annotations

import numpy as np

from engines.embedded.train.bank import RATE


def through_a_room(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add a random colour, echo and noise to speech, mono float32 (n,) at 16 kHz."""
    wave = _coloured(wave, random)
    if random.random() < 0.5:
        wave = _echoed(wave, random)
    return _noisy(wave, random).astype(np.float32)


def _coloured(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Apply a smooth curve of up to some 6 dB to the spectrum; every third time cut the highs."""
    frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
    points_hz = np.array([60, 200, 500, 1200, 2500, 4500, 8000])
    gain_db = np.interp(np.log(np.maximum(frequency, 60)), np.log(points_hz), random.normal(0, 3, len(points_hz)))
    if random.random() < 0.33:
        cut = random.uniform(4000, 7500)
        gain_db -= 60 * np.clip((frequency - cut) / 1000, 0, 1)
    return np.fft.irfft(np.fft.rfft(wave) * 10 ** (gain_db / 20), len(wave))


def _echoed(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add a room's echo: noise that decays by 60 dB in 0.1 to 0.4 s, 3 to 15 dB below the direct sound."""
    length = int(random.uniform(0.1, 0.4) * RATE)
    tail = random.normal(size=length) * 10 ** (-3 * np.arange(length) / length)
    tail *= 10 ** (-random.uniform(3, 15) / 20) / np.sqrt((tail**2).sum())
    size = len(wave) + length
    return wave + np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size), size)[: len(wave)]


def _noisy(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add noise between white and brown, 15 to 45 dB below the speech."""
    spectrum = np.fft.rfft(random.normal(size=len(wave)))
    spectrum /= np.maximum(np.fft.rfftfreq(len(wave), 1 / RATE), 50) ** random.uniform(0, 1)
    noise = np.fft.irfft(spectrum, len(wave))
    wanted = np.sqrt((wave**2).mean()) * 10 ** (-random.uniform(15, 45) / 20)
    return wave + noise * wanted / np.sqrt((noise**2).mean())
