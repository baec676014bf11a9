"""The vocoder's excitation is made of the pitch of each mel frame, and a source of harmonics and noise.

The source is HiFTNet's (Y. A. Li et al., 2023) neural source filter as the checkpoint was trained with it. It keeps
three traits of the official code that are audible. The harmonics are constant within a frame, because the phase is
repeated and not interpolated. Their random initial phases have no effect, because they are added at a sample that the
following reduction to frames skips. The noise is uniform between 0 and 1, not normal around 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cosyvoice3.convolutions import Ahead, Back
from engines.cosyvoice3.numbers import F0Predictor as F0Size
from engines.cosyvoice3.numbers import Hift as HiftSize


class F0Predictor(nn.Module):
    """The predictor of pitch from mel, in float64: the source sums phases up, so rounding would become audible."""

    #: mel frames that it looks ahead
    REACH = 3

    def __init__(self, size: F0Size) -> None:
        super().__init__()
        channels = size.cond_channels
        layers: list[nn.Module] = [Ahead(size.in_channels, channels, self.REACH + 1), nn.ELU()]
        for _ in range(4):
            layers += [Back(channels, channels, 3), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, size.num_class)

    def forward(self, mel: Tensor) -> Tensor:
        """Predict Hz (n, frames) from mels (n, 80, frames) that are zero beyond each row's end, both float64."""
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class Source(nn.Module):
    """The source that makes the excitation from the pitch."""

    def __init__(self, size: HiftSize) -> None:
        super().__init__()
        self.size = size
        self.samples_per_frame = math.prod(size.upsample_rates) * size.istft_params.hop_len
        self.l_linear = nn.Linear(size.nb_harmonics + 1, 1)

    def forward(self, f0: Tensor, noise: Tensor) -> Tensor:
        """Make (n, samples) within ±1 from Hz (n, frames) float32 and noise (samples, harmonics)."""
        size = self.size
        harmonics = torch.arange(1, size.nb_harmonics + 2, device=f0.device, dtype=f0.dtype)
        turns = (f0[..., None] * harmonics / size.sampling_rate) % 1
        # Each sum is rounded to float32, as in the official code: over many frames the rounding adds up. The summation
        # is in float64, as torch's sum over float32 is on a CPU. On a GPU torch sums by a tree in float32, which would
        # give another result for a phase of a million radians.
        phase = turns.cumsum(dim=1, dtype=torch.float64).to(f0.dtype) * 2 * math.pi * self.samples_per_frame
        voiced = (f0 > size.nsf_voiced_threshold).to(f0.dtype)[..., None]
        tone = phase.sin() * size.nsf_alpha * voiced
        loudness = voiced * size.nsf_sigma + (1 - voiced) * size.nsf_alpha / 3
        tone, loudness = (self._repeated(frames) for frames in (tone, loudness))
        return F.tanh(self.l_linear(tone + loudness * noise)).squeeze(-1)

    def _repeated(self, frames: Tensor) -> Tensor:
        """Repeat each frame over its samples: (n, frames, k) -> (n, samples, k)."""
        return frames[:, :, None].expand(-1, -1, self.samples_per_frame, -1).flatten(1, 2)
