"""Resamples by a windowed sinc (J. O. Smith, "Digital Audio Resampling"), bit-identical to torchaudio's default.

The front end's models were trained with that resampler; a better one (soxr) differs by 4e-3.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_ZERO_CROSSINGS = 6  #: zero crossings of the sinc on either side
_ROLL_OFF = 0.99  #: the edge of the passed band, as a part of the lower Nyquist frequency


def resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resample mono float32 (n,) at `rate` Hz to float32 (ceil(n * target / rate),) at `target` Hz."""
    if rate == target:
        return samples
    shared = math.gcd(rate, target)
    step, phases = rate // shared, target // shared
    kernels, reach = _kernels(step, phases)
    # Pad to whole seconds: for each new length the convolution is compiled and the code kept, 140 kB a time.
    filled = -len(samples) % rate
    padded = torch.nn.functional.pad(torch.from_numpy(samples)[None, None], (reach, reach + step + filled))
    out = torch.nn.functional.conv1d(padded, kernels, stride=step)  # (1, phases, steps)
    return out[0].T.reshape(-1)[: math.ceil(phases * len(samples) / step)].numpy()


@lru_cache(maxsize=16)
def _kernels(step: int, phases: int) -> tuple[Tensor, int]:
    """Make a low-pass kernel for each of the output's phases (phases, 1, width); returns them and their reach back."""
    band = min(step, phases) * _ROLL_OFF
    reach = math.ceil(_ZERO_CROSSINGS * step / band)
    place = torch.arange(-reach, reach + step, dtype=torch.float64)[None, None] / step
    offset = torch.arange(0, -phases, -1)[:, None, None] / phases
    crossings = ((offset + place) * band).clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(crossings * math.pi / _ZERO_CROSSINGS / 2) ** 2
    angle = crossings * math.pi
    sinc = torch.where(angle == 0, torch.tensor(1.0, dtype=torch.float64), angle.sin() / angle)
    return (sinc * (window * (band / step))).float(), reach
