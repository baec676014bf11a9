"""What the vocoder sings on: the pitch of each mel frame, and a source of harmonics and noise made from it.

The source is HiFTNet's (Y. A. Li et al., 2023) neural source filter as the checkpoint knows it. Three of its traits are
the official code's, heard in its audio and kept: the harmonics are constant within a frame, because the phase is
repeated and not interpolated; their random initial phases never arrive, because they are added at a sample that the
following reduction to frames skips; and the noise is uniform between 0 and 1, not normal around 0.
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
    """Mel -> pitch. In float64: the source sums phases up, and a rounding here would be heard at the clip's end."""

    #: mel frames it looks ahead
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
        """(n, 80, frames), zero beyond each row's end -> Hz (n, frames), both float64."""
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class Source(nn.Module):
    """Pitch -> excitation."""

    def __init__(self, size: HiftSize) -> None:
        super().__init__()
        self.size = size
        self.samples_per_frame = math.prod(size.upsample_rates) * size.istft_params.hop_len
        self.l_linear = nn.Linear(size.nb_harmonics + 1, 1)

    def forward(self, f0: Tensor, noise: Tensor) -> Tensor:
        """Hz (n, frames) float32 and noise (samples, harmonics) -> (n, samples) within ±1."""
        size = self.size
        harmonics = torch.arange(1, size.nb_harmonics + 2, device=f0.device, dtype=f0.dtype)
        turns = (f0[..., None] * harmonics / size.sampling_rate) % 1
        # Each sum is rounded to float32, as the official code rounds it: over many frames the rounding adds up. They
        # are summed up in float64, as torch's own sum over float32 is on a CPU; on a GPU that one is a tree in float32,
        # and a phase of a million radians would be another one.
        phase = turns.cumsum(dim=1, dtype=torch.float64).to(f0.dtype) * 2 * math.pi * self.samples_per_frame
        voiced = (f0 > size.nsf_voiced_threshold).to(f0.dtype)[..., None]
        tone = phase.sin() * size.nsf_alpha * voiced
        loudness = voiced * size.nsf_sigma + (1 - voiced) * size.nsf_alpha / 3
        tone, loudness = (self._repeated(frames) for frames in (tone, loudness))
        return F.tanh(self.l_linear(tone + loudness * noise)).squeeze(-1)

    def _repeated(self, frames: Tensor) -> Tensor:
        """(n, frames, k) -> (n, samples, k)."""
        return frames[:, :, None].expand(-1, -1, self.samples_per_frame, -1).flatten(1, 2)
