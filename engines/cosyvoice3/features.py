"""The three models of the front end take three kinds of mel spectrum of a clip, all computed on the CPU.

- `whisper_mel`: for the speech tokens, Whisper's log-mel (A. Radford et al., 2022), 128 bands, 100 frames a second.
- `fbank`: for the speaker embedding, Kaldi's filter bank (engines/filter_bank.py), 80 bands, 100 a second.
- `prompt_mel`: for the flow, which continues it, HiFi-GAN's log-mel at 24 kHz, 80 bands, 50 frames a second.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.filter_bank import filter_bank
from engines.mel import mel_filters

WHISPER_RATE, WHISPER_BANDS = 16_000, 128
_WHISPER_FFT, _WHISPER_HOP = 400, 160

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
    return filter_bank(torch.from_numpy(samples)).numpy()


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
