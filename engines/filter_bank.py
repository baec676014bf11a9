"""Kaldi's log mel filter bank, which encoders of speakers hear: 80 bands from 20 Hz to 8 kHz, 100 frames a second.

It is that of `compute-fbank-feats` with dither 0 (kaldi-asr/kaldi, src/feat/feature-fbank.cc and mel-computations.cc).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

RATE = 16_000  #: Hz of the samples
BANDS = 80
_FRAME, _HOP, _FFT = 400, 160, 512  # samples
_PRE_EMPHASIS = 0.97
_LOWEST_HZ = 20.0


def filter_bank(samples: Tensor) -> Tensor:
    """Compute log mel energies minus each band's mean. Gradients flow through it.

    Args:
        samples: (n,) of a float type, at 16 kHz, n at least 400. Energies below 1.2e-7 count as that: what full scale
            is, 1 or 32,768, decides how faint a band is heard.

    Returns:
        (1 + (n - 400) // 160, 80) of the same type, on the same device.
    """
    frames = samples.unfold(0, _FRAME, _HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = F.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
    frames = (frames - _PRE_EMPHASIS * before) * _window(samples.device, samples.dtype)
    power = torch.fft.rfft(frames, _FFT).abs().square()
    log = (power @ _triangles(samples.device, samples.dtype).T).clamp(min=torch.finfo(torch.float32).eps).log()
    return log - log.mean(dim=0, keepdim=True)


@lru_cache
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Make Kaldi's own window, a Hann window to the power of 0.85, which approaches zero less fast."""
    return torch.hann_window(_FRAME, periodic=False).pow(0.85).to(device, dtype)


@lru_cache
def _triangles(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Make triangular filters (80, 257) of height 1 that are straight in mel, from 20 Hz to 8 kHz.

    Kaldi's mel is 1127 ln(1 + f/700). The bin at the Nyquist frequency belongs to no triangle.
    """

    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    low, width = mel(_LOWEST_HZ), (mel(RATE / 2) - mel(_LOWEST_HZ)) / (BANDS + 1)
    # float32 from here on, as in Kaldi's port to torch: its rounding decides the values of quiet bands.
    left, centre, right = (low + (torch.arange(BANDS)[:, None] + place) * width for place in (0.0, 1.0, 2.0))
    bins = 1127.0 * (1.0 + torch.arange(_FFT // 2) * (RATE / _FFT) / 700.0).log()[None]
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return F.pad(triangles, (0, 1)).to(device, dtype)
