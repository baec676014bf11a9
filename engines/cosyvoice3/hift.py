"""The vocoder: causal HiFTNet (Y. A. Li et al., 2023), mel to 24 kHz audio by way of a short inverse Fourier transform.

Rows of different length share a batch and sound as they do alone. Their source is mirrored at each row's own end for
the forward transform, and the inverse one adds up and weighs each row's own frames only; the convolutions between see
no further than the row. Without that care the last 60 samples of a padded row are wrong by 1e-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engines.cosyvoice3 import weights
from engines.cosyvoice3.convolutions import Ahead, Back, Down, ResBlock, Up
from engines.cosyvoice3.directory import HIFT, ModelDirectory
from engines.cosyvoice3.excitation import F0Predictor, Source
from engines.cosyvoice3.noise import Excitation
from engines.cosyvoice3.numbers import Hift as HiftSize

_LOUDEST_BIN = 1e2
_PITCH = "f0_predictor."


class Hift(nn.Module):
    def __init__(self, size: HiftSize) -> None:
        super().__init__()
        self.size = size
        self.fft, self.hop = size.istft_params.n_fft, size.istft_params.hop_len
        widths = [size.base_channels // 2**i for i in range(len(size.upsample_rates) + 1)]
        bins = self.fft + 2  # real and imaginary parts of n_fft / 2 + 1
        self.f0_predictor = F0Predictor(size.f0_predictor)
        self.m_source = Source(size)
        self.conv_pre = Ahead(size.in_channels, widths[0], size.conv_pre_look_right + 1)
        self.ups, self.source_downs = nn.ModuleList(), nn.ModuleList()
        self.source_resblocks, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip(size.upsample_rates, size.upsample_kernel_sizes, strict=True)):
            self.ups.append(Up(widths[i], widths[i + 1], kernel, rate))
            self.source_downs.append(Down(bins, widths[i + 1], math.prod(size.upsample_rates[i + 1 :])))
            self.source_resblocks.append(
                ResBlock(widths[i + 1], size.source_resblock_kernel_sizes[i], size.source_resblock_dilation_sizes[i])
            )
            self.resblocks.extend(
                ResBlock(widths[i + 1], *shape)
                for shape in zip(size.resblock_kernel_sizes, size.resblock_dilation_sizes, strict=True)
            )
        self.conv_post = Back(widths[-1], bins, 7)

    @property
    def held_back(self) -> int:
        """Mel frames at the end that are only looked at while more are to come."""
        return F0Predictor.REACH + self.size.conv_pre_look_right + 1

    @property
    def samples_per_frame(self) -> int:
        return self.m_source.samples_per_frame

    @torch.inference_mode()
    def pitch(self, mel: Tensor) -> Tensor:
        """(n, 80, frames), zero beyond each row's end -> Hz (n, frames) float64."""
        return self.f0_predictor(mel.double())

    @torch.inference_mode()
    def forward(self, mels: Sequence[Tensor], noise: Excitation, final: bool = True) -> list[Tensor]:
        """Audio of each row, (480 frames,) float32 within ±0.99.

        Args:
            mels: (80, frames) each.
            noise: the model's fixed noise.
            final: False where more frames will come: the last eight are then held back, and what is given is, to
                1e-7, the beginning of what the whole would give.

        Raises:
            ValueError: a row is too short to give any audio.
        """
        mel, frames = self._padded(mels, final)
        # While more is to come, the frames that the pitch looks ahead to have no pitch of their own yet.
        pitched = [count if final else count - F0Predictor.REACH for count in frames]
        sounded = [count if final else count - self.size.conv_pre_look_right for count in pitched]
        f0 = self.pitch(mel)[:, : max(pitched)].to(mel.dtype)
        source = self.m_source(f0, noise(max(pitched) * self.samples_per_frame).to(mel))
        spectrum = self._spectrum(source, [count * self.samples_per_frame for count in pitched])
        windows = torch.tensor(sounded, device=mel.device) * (self.samples_per_frame // self.hop) + 1
        audio = self._inverse(self._filtered(self.conv_pre(mel)[:, :, : max(sounded)], spectrum), windows)
        audio = audio.clamp(-self.size.audio_limit, self.size.audio_limit)
        ends = [(count if final else count - 1) * self.samples_per_frame for count in sounded]
        return [row[:end] for row, end in zip(audio, ends, strict=True)]

    def _padded(self, mels: Sequence[Tensor], final: bool) -> tuple[Tensor, list[int]]:
        frames = [mel.shape[1] for mel in mels]
        least = 1 if final else self.held_back + 1
        if min(frames) < least:
            raise ValueError(f"a mel of {min(frames)} frames is too short; the vocoder needs {least}")
        weight = self.conv_pre.weight
        return pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2).to(weight), frames

    def _filtered(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """The mel's features and the source's spectrum -> the audio's (n, 18, windows)."""
        kinds = len(self.size.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, self.size.lrelu_slope))
            if i == len(self.ups) - 1:  # one more window than hops: the first is mirrored
                x = F.pad(x, (1, 0), mode="reflect")
            sung = self.source_downs[i](spectrum)[:, :, : x.shape[2]]
            x = x + self.source_resblocks[i](sung)
            x = sum(block(x) for block in self.resblocks[i * kinds : (i + 1) * kinds]) / kinds
        return self.conv_post(F.leaky_relu(x))

    def _spectrum(self, source: Tensor, lengths: list[int]) -> Tensor:
        """The short Fourier transform (n, 18, windows), each row mirrored at its own ends."""
        half = self.fft // 2
        padded = F.pad(source, (half, half))
        for row, samples, length in zip(padded, source, lengths, strict=True):
            row[:half] = samples[1 : half + 1].flip(0)
            row[half + length : half + length + half] = samples[length - 1 - half : length - 1].flip(0)
        windows = padded.unfold(1, self.fft, self.hop) * self._window(padded)
        spectrum = torch.fft.rfft(windows).transpose(1, 2)
        return torch.cat((spectrum.real, spectrum.imag), dim=1)

    def _inverse(self, x: Tensor, windows: Tensor) -> Tensor:
        """(n, 18, windows) -> (n, samples); windows beyond a row's own count for nothing."""
        bins = self.fft // 2 + 1
        magnitude, phase = x[:, :bins].exp().clamp(max=_LOUDEST_BIN), x[:, bins:].sin()
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        own = (torch.arange(x.shape[2], device=x.device) < windows[:, None]).to(x.dtype)[:, None]
        window = self._window(x)[:, None]
        pieces = torch.fft.irfft(spectrum, self.fft, dim=1) * window * own
        audio, weight = self._overlapped(pieces), self._overlapped(window.square() * own)
        return audio / weight.clamp(min=1e-11)

    def _overlapped(self, pieces: Tensor) -> Tensor:
        """(n, 16, windows), 4 samples apart, added up; half a window is cut off at either end."""
        total = self.fft + (pieces.shape[2] - 1) * self.hop
        whole = F.fold(pieces, (1, total), (1, self.fft), stride=(1, self.hop))[:, 0, 0]
        return whole[:, self.fft // 2 : total - self.fft // 2]

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.fft, device=like.device, dtype=like.dtype)


def stored(directory: ModelDirectory) -> weights.Stored:
    """Where a directory has it. Keys may carry the name of the training wrapper, `generator.`."""
    return weights.Stored(
        lambda: Hift(directory.numbers.hift),
        directory / HIFT,
        double=_PITCH,
        rename=lambda key: key.replace("generator.", "", 1),
    )


def load(directory: ModelDirectory, device: str = "cpu") -> Hift:
    """The vocoder of a directory, float32 with the pitch in float64. Raises WeightsError as `Stored.load` does."""
    return stored(directory).load().to(device)
