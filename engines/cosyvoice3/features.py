"""The three models of the front end take three kinds of mel spectrum of a clip, all computed on the CPU.

- `whisper_mel`: for the speech tokens, Whisper's log-mel (A. Radford et al., 2022), 128 bands, 100 frames a second.
- `fbank`: for the speaker embedding, Kaldi's filter bank (`compute-fbank-feats` with dither 0), 80 bands, 100 a second.
- `prompt_mel`: for the flow, which continues it, HiFi-GAN's log-mel at 24 kHz, 80 bands, 50 frames a second.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.mel import mel_filters

WHISPER_RATE, WHISPER_BANDS = 16_000, 128
_WHISPER_FFT, _WHISPER_HOP = 400, 160

FBANK_RATE, FBANK_BANDS = 16_000, 80
_FBANK_FRAME, _FBANK_HOP, _FBANK_FFT = 400, 160, 512
_PRE_EMPHASIS = 0.97
_LOWEST_HZ = 20.0

PROMPT_RATE, PROMPT_BANDS, PROMPT_HOP = 24_000, 80, 480
_PROMPT_FFT = 1920


def whisper_mel(samples: np.ndarray) -> np.ndarray:
    """Compute (128, n // 160) float32 from 16 kHz float32 (n,): at most about 1.5, within 2 of the largest value."""
    window = torch.hann_window(_WHISPER_FFT)
    spectrum = torch.stft(torch.from_numpy(samples), _WHISPER_FFT, _WHISPER_HOP, window=window, return_complex=True)
    mel = _slaney(WHISPER_RATE, _WHISPER_FFT, WHISPER_BANDS) @ spectrum[:, :-1].abs().square()
    log = mel.clamp(min=1e-10).log10()
    return ((torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0).numpy()


def fbank(samples: np.ndarray) -> np.ndarray:
    """Compute (1 + (n - 400) // 160, 80) float32 from 16 kHz float32 (n,) in ±1, minus each band's mean."""
    frames = torch.from_numpy(samples).unfold(0, _FBANK_FRAME, _FBANK_HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = F.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
    frames = (frames - _PRE_EMPHASIS * before) * _povey_window()
    power = torch.fft.rfft(F.pad(frames, (0, _FBANK_FFT - _FBANK_FRAME))).abs().square()
    log = (power @ _kaldi_filters().T).clamp(min=torch.finfo(torch.float32).eps).log()
    return (log - log.mean(dim=0, keepdim=True)).numpy()


def prompt_mel(samples: np.ndarray) -> np.ndarray:
    """Compute (n // 480, 80) float32, the natural logarithm of magnitudes, from 24 kHz float32 (n,)."""
    edge = (_PROMPT_FFT - PROMPT_HOP) // 2
    padded = F.pad(torch.from_numpy(samples)[None], (edge, edge), mode="reflect")[0]
    spectrum = torch.stft(
        padded, _PROMPT_FFT, PROMPT_HOP, window=torch.hann_window(_PROMPT_FFT), center=False, return_complex=True
    )
    magnitude = torch.view_as_real(spectrum).square().sum(dim=-1).add(1e-9).sqrt()
    mel = _slaney(PROMPT_RATE, _PROMPT_FFT, PROMPT_BANDS) @ magnitude
    return mel.clamp(min=1e-5).log().T.contiguous().numpy()


@lru_cache
def _slaney(rate: int, fft: int, bands: int) -> Tensor:
    return torch.from_numpy(mel_filters(rate, fft, bands))


@lru_cache
def _povey_window() -> Tensor:
    """Make Kaldi's own window, a Hann window to the power of 0.85, which approaches zero less fast."""
    return torch.hann_window(_FBANK_FRAME, periodic=False).pow(0.85)


@lru_cache
def _kaldi_filters() -> Tensor:
    """Make triangular filters (80, 257) of height 1 that are straight in mel, from 20 Hz to 8 kHz.

    Kaldi's mel is 1127 ln(1 + f/700). The bin at the Nyquist frequency belongs to no triangle.
    """

    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    low, width = mel(_LOWEST_HZ), (mel(FBANK_RATE / 2) - mel(_LOWEST_HZ)) / (FBANK_BANDS + 1)
    # float32 from here on, as in Kaldi's port to torch: its rounding decides the values of quiet bands.
    left, centre, right = (low + (torch.arange(FBANK_BANDS)[:, None] + place) * width for place in (0.0, 1.0, 2.0))
    bins = 1127.0 * (1.0 + torch.arange(_FBANK_FFT // 2) * (FBANK_RATE / _FBANK_FFT) / 700.0).log()[None]
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return F.pad(triangles, (0, 1))
