"""Mel filters, shared by the engines' feature extraction."""

from __future__ import annotations

import numpy as np


def mel_filters(rate: int, fft: int, bands: int) -> np.ndarray:
    """Make triangular mel filters (bands, fft // 2 + 1), float32, of unit area, on M. Slaney's scale.

    That scale (Auditory Toolbox) is linear up to 1 kHz (15 mel) and logarithmic above, 27 steps for a factor of 6.4.
    """

    def mel(hz: np.ndarray) -> np.ndarray:
        return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4))

    def hertz(mels: np.ndarray) -> np.ndarray:
        return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))

    edges = hertz(np.linspace(0, mel(np.array(rate / 2)), bands + 2))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.fft.rfftfreq(fft, 1 / rate)[None]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return (np.maximum(triangles, 0) * 2 / (right - left)).astype(np.float32)
