"""Measures clean sound by DNSMOS P.835 (C. Reddy et al., ICASSP 2022), which predicts a listener's opinion.

The network and the calibration of its outputs are Microsoft's (DNS-Challenge repository, MIT), as the package
speechmos 0.0.1.1 carries them; the package's own code would pull in more than is needed to run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr

from engines.embedded.packages import find

_RATE = 16_000
_SAMPLES = int(9.01 * _RATE)  # the network's fixed input; shorter sound is repeated
_PEAK = 0.7  # the same loudness for all: the network rates quiet speech as bad speech
_NETWORK = ("speechmos", "speechmos/dnsmos_models/sig_bak_ovr.onnx")
_SIGNAL = np.poly1d([-0.08397278, 1.22083953, 0.0052439])
_BACKGROUND = np.poly1d([-0.13166888, 1.60915514, -0.39604546])
_OVERALL = np.poly1d([-0.06766283, 1.11546468, 0.04602535])


@dataclass(frozen=True)
class Opinion:
    """The mean opinion scores, 1 (bad) to 5 (excellent)."""

    signal: float
    background: float
    overall: float


def dnsmos(wav: np.ndarray, rate: int) -> Opinion:
    """Predict the opinion of mono float32 (n,) samples; over 9 s it is the mean of windows a second apart."""
    samples = np.asarray(wav, dtype=np.float32)
    if rate != _RATE:
        samples = soxr.resample(samples, rate, _RATE)
    samples = samples / max(float(np.abs(samples).max()), 1e-6) * _PEAK
    if len(samples) < _SAMPLES:
        samples = np.tile(samples, -(-_SAMPLES // len(samples)))[:_SAMPLES]
    windows = [samples[start : start + _SAMPLES] for start in range(0, len(samples) - _SAMPLES + 1, _RATE)]
    raw = np.mean([_session().run(None, {"input_1": window[None]})[0][0] for window in windows], axis=0)
    return Opinion(float(_SIGNAL(raw[0])), float(_BACKGROUND(raw[1])), float(_OVERALL(raw[2])))


@cache
def _session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(find(*_NETWORK)), options, providers=["CPUExecutionProvider"])
