"""iSTFTNet, Kokoro-82M's vocoder half, makes a 24 kHz waveform from features and pitch, in padded batches.

iSTFTNet (Kaneko et al. 2022, arXiv:2203.02395) driven by a harmonic source (NSF, Wang et al. 2019, arXiv:1904.12088)
as StyleTTS 2 and Kokoro-82M configure it: two upsampling steps of 10 and 6, snake activations (arXiv:2006.08195),
style-adaptive norms over the whole utterance, and an inverse STFT of 20 samples with a hop of 5 as the last step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.blocks import STYLE, AdaptiveNorm, give_slots, masked, padding_mask, with_deltas

SAMPLE_RATE = 24000
SAMPLES_PER_COLUMN = 300  #: waveform samples for each column of features and pitch
_HARMONICS = 9
_FFT, _HOP = 20, 5


class HarmonicSource(nn.Module):
    """The source of the excitation (B, 300 T) for pitch (B, T) in Hz: a learned blend of nine harmonics and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(_HARMONICS, 1)

    def forward(self, pitch: Tensor, noise: Tensor) -> Tensor:
        """Make the excitation. `noise` is (B, 300 T, 9) of unit variance."""
        harmonics = torch.arange(1, _HARMONICS + 1, device=pitch.device)
        cycles = (pitch[:, :, None] * harmonics / SAMPLE_RATE) % 1
        # A float32 phase would drift when summed over minutes. A phase that is linear between columns would make a
        # pitch that steps from column to column.
        phase = cycles.double().cumsum(1) * (2 * math.pi * SAMPLES_PER_COLUMN)
        phase = F.interpolate(phase.transpose(1, 2), scale_factor=SAMPLES_PER_COLUMN, mode="linear").transpose(1, 2)
        waves = 0.1 * torch.sin((phase % (2 * math.pi)).to(pitch.dtype).contiguous())  # in the noise's layout
        voiced = (pitch > 10).to(pitch.dtype).repeat_interleave(SAMPLES_PER_COLUMN, 1)[:, :, None]
        loudness = voiced * 0.003 + (1 - voiced) * (0.1 / 3)
        return torch.tanh(self.l_linear(waves * voiced + loudness * noise))[:, :, 0]


class SnakeBlock(nn.Module):
    """Three dilated residual convolutions with adaptive norms and snake activations, x + sin²(αx)/α."""

    dilations = (1, 3, 5)

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            for dilation in self.dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in range(3))
        self.adain1 = nn.ModuleList(AdaptiveNorm(channels) for _ in range(3))
        self.adain2 = nn.ModuleList(AdaptiveNorm(channels) for _ in range(3))
        self.alpha1 = nn.ParameterList(torch.ones(1, channels, 1) for _ in range(3))
        self.alpha2 = nn.ParameterList(torch.ones(1, channels, 1) for _ in range(3))

    def forward(self, x: Tensor, style: Tensor, mask: Tensor | None) -> Tensor:
        for i in range(3):
            h = snake(self.adain1[i](x, style, mask), self.alpha1[i])
            h = self.convs1[i](masked(h, mask))
            h = snake(self.adain2[i](h, style, mask), self.alpha2[i])
            x = x + self.convs2[i](masked(h, mask))
        return x


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    return x + torch.sin(alpha * x).square() / alpha


class VocoderNetwork(nn.Module):
    """The vocoder: features (B, 512, 2T), pitch (B, 2T) and acoustic style (B, 128) -> waveform (B, 600 T)."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.m_source = HarmonicSource()
        self.noise_convs = nn.ModuleList([nn.Conv1d(_FFT + 2, 256, 12, 6, 3), nn.Conv1d(_FFT + 2, 128, 1)])
        self.noise_res = nn.ModuleList([SnakeBlock(256, 7), SnakeBlock(128, 11)])
        self.ups = nn.ModuleList([nn.ConvTranspose1d(512, 256, 20, 10, 5), nn.ConvTranspose1d(256, 128, 12, 6, 3)])
        self.resblocks = nn.ModuleList(SnakeBlock(channels, kernel) for channels in (256, 128) for kernel in (3, 7, 11))
        self.conv_post = nn.Conv1d(128, _FFT + 2, 7, padding=3)
        self.register_buffer("window", torch.hann_window(_FFT), persistent=False)
        self.deltas = give_slots(self)  #: numbers that a fitted voice adds to its style layers: 18,432

    @torch.inference_mode()
    def forward(
        self,
        features: Tensor,
        pitch: Tensor,
        style: Tensor,
        columns: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        deltas: Tensor | None = None,
    ) -> Tensor:
        """Compute a padded batch of waveforms; member i is valid up to 300 * `columns[i]` samples.

        Args:
            features: (B, 512, C).
            pitch: (B, C) in Hz.
            style: (B, 128) or (B, 256), acoustic half first.
            columns: (B,) valid columns of each member; None if all are valid.
            seeds: a seed for each member, for the noise in the excitation; None means 0 for all.
            deltas: (B, `self.deltas`) those of fitted voices, zeros for the others; None if there are none.
        """
        style = with_deltas(style[:, :STYLE], deltas)
        batch, size = pitch.shape
        columns = torch.full((batch,), size) if columns is None else columns.cpu()
        source = self.source_spectrum(pitch, columns, seeds or [0] * batch)
        columns = columns.to(pitch.device)
        masks = [padding_mask(columns * 10, size * 10), padding_mask(columns * 60 + 1, size * 60 + 1)]
        source = masked(source, masks[1])
        x = features
        for step, mask in enumerate(masks):
            aside = self.noise_res[step](masked(self.noise_convs[step](source), mask), style, mask)
            x = self.ups[step](F.leaky_relu(x, 0.1))
            if step == 1:
                x = F.pad(x, (1, 0), mode="reflect")  # an STFT of n hops has n + 1 columns
            x = masked(x + aside, mask)
            blocks = self.resblocks[3 * step : 3 * step + 3]
            x = masked(sum(block(x, style, mask) for block in blocks) / 3, mask)
        return self.waveform(x, masks[1])

    def source_spectrum(self, pitch: Tensor, columns: Tensor, seeds: Sequence[int]) -> Tensor:
        """Compute the excitation's STFT, magnitudes and angles: (B, 22, 60 C + 1)."""
        noise = _noise(seeds, columns, pitch.shape[1]).to(pitch.device)
        spectrum = torch.stft(self.m_source(pitch, noise), _FFT, _HOP, window=self.window, return_complex=True)
        # The first frame is mirrored at the edge, so it is real. Rounding would choose between angles of π and -π, each
        # processor in its own way, and the sound would differ.
        spectrum[:, :, 0] = spectrum[:, :, 0].real.to(spectrum.dtype)
        return torch.cat([spectrum.abs(), spectrum.angle()], 1)

    def waveform(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the last layer: (B, 128, 60 C + 1) -> (B, 300 C)."""
        return self.inverse(self.conv_post(F.leaky_relu(x, 0.01)), mask)

    def inverse(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Invert an STFT given as log magnitudes and phases: (B, 22, 60 C + 1) -> (B, 300 C)."""
        magnitude, phase = x.split(_FFT // 2 + 1, dim=1)
        return torch.istft(torch.polar(masked(magnitude.exp(), mask), phase.sin()), _FFT, _HOP, window=self.window)


def _noise(seeds: Sequence[int], columns: Tensor, size: int) -> Tensor:
    """Draw noise (B, 300 * size, 9) on the CPU, each member alone, so that a seed sounds the same everywhere."""
    noise = torch.zeros(len(seeds), size * SAMPLES_PER_COLUMN, _HARMONICS)
    for member, seed, valid in zip(noise, seeds, (columns * SAMPLES_PER_COLUMN).tolist(), strict=True):
        torch.randn(valid, _HARMONICS, generator=torch.Generator().manual_seed(seed), out=member[:valid])
    return noise
