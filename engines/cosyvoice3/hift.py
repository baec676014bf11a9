"""The vocoder is a causal HiFTNet (Y. A. Li et al., 2023) that makes 24 kHz audio from mel by an inverse STFT.

Rows of different length share a batch and sound as they do alone. For the forward transform the source is mirrored at
each row's own end. The inverse transform adds up and weighs each row's own frames only, and the convolutions between
see no further than the row. Otherwise the last 60 samples of a padded row would be wrong by 1e-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cosyvoice3 import weights
from engines.cosyvoice3.convolutions import Ahead, Back, Down, ResBlock, Up
from engines.cosyvoice3.directory import HIFT, ModelDirectory
from engines.cosyvoice3.excitation import F0Predictor, Source
from engines.cosyvoice3.finite import check_finite
from engines.cosyvoice3.flow_batches import bucket
from engines.cosyvoice3.launcher import Launcher, Pending
from engines.cosyvoice3.noise import Excitation
from engines.cosyvoice3.numbers import Hift as HiftSize

_LOUDEST_BIN = 1e2
_PITCH = "f0_predictor."


class Hift(nn.Module):
    """The vocoder, from mels to audio.

    `forward` takes mels and gives their audio. Its whole computation is one function of fixed shapes, `sound`. On a CPU
    it is called directly, in the exact shapes of the mels. On a GPU it is captured as a CUDA graph for each bucket of
    rows and frames.

    Attributes:
        tf32: see `Launcher`; takes effect if set before the first batch.
    """

    def __init__(self, size: HiftSize) -> None:
        super().__init__()
        self.tf32 = False
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
        self._window: Tensor
        self.register_buffer("_window", None, persistent=False)
        self._prepared: tuple[torch.device, torch.dtype] | None = None
        self._launcher: Launcher | None = None

    @property
    def device(self) -> torch.device:
        return self.conv_pre.weight.device

    @property
    def held_back(self) -> int:
        """Mel frames at the end that give no audio while more are to come."""
        return F0Predictor.REACH + self.size.conv_pre_look_right + 1

    @property
    def samples_per_frame(self) -> int:
        return self.m_source.samples_per_frame

    def pitch(self, mel: Tensor) -> Tensor:
        """Predict Hz (n, frames) float64 from mels (n, 80, frames) that are zero beyond each row's end.

        It computes in float64 on a GPU too, because the source sums the pitch up. That is 3.3 GFLOP for ten seconds, a
        small part of the whole.
        """
        return self.f0_predictor(mel.double())

    def prepare(self, launcher: Launcher | None = None) -> Launcher:
        """Make the tables for all batches. Does nothing if they exist for this device and dtype.

        Args:
            launcher: starts batches; None makes one for the device.

        Returns:
            The launcher of later batches.
        """
        weight = self.conv_pre.weight
        if self._launcher is None or self._prepared != (weight.device, weight.dtype):
            self._window = torch.hann_window(self.fft, dtype=weight.dtype).to(weight.device)
            self._launcher = launcher or Launcher(weight.device, tf32=self.tf32)
            self._launcher.synchronize()
            self._prepared = weight.device, weight.dtype
        return self._launcher

    def forward(self, mels: Sequence[Tensor], noise: Excitation, final: bool = True) -> list[Tensor]:
        """Make the audio of each row, (480 * frames,) float32 within ±0.99, on the host.

        Args:
            mels: (80, frames) each.
            noise: the model's fixed noise.
            final: False: more frames will come. The last eight are then held back, and the result is, to 1e-7, the
                beginning of the whole mel's audio.

        Raises:
            ValueError: a row is too short to give any audio.
            NotFinite: the network gave NaN or infinity for a row.
        """
        return self.launch(mels, noise, final).result()

    @torch.inference_mode()
    def launch(self, mels: Sequence[Tensor], noise: Excitation, final: bool = True) -> Pending[list[Tensor]]:
        """Start a batch. On a GPU it runs on a stream of its own, beside whatever else the device does.

        Returns:
            A `Pending` whose `result()` is that of `forward`.

        Raises:
            ValueError: as `forward`.
        """
        frames = [mel.shape[1] for mel in mels]
        least = 1 if final else self.held_back + 1
        if min(frames) < least:
            raise ValueError(f"a mel of {min(frames)} frames is too short; the vocoder needs {least}")
        launcher = self.prepare()
        n, longest = len(mels), max(frames)
        if launcher.bucketed:
            n, longest = bucket(n, longest)
        mel = launcher.buffer((n, mels[0].shape[0], longest), self.conv_pre.weight.dtype)
        lengths = launcher.buffer((n,), torch.int64)
        lengths[:] = least  # length of the rows that fill the bucket up
        for index, row in enumerate(mels):
            mel[index, :, : frames[index]] = row
            lengths[index] = frames[index]
        table = noise.on(self.device, self._pitched(longest, final) * self.samples_per_frame)
        ends = [self._given(count, final) for count in frames]

        def split(audio: Tensor) -> list[Tensor]:
            made = [audio[index, :end].clone() for index, end in enumerate(ends)]
            for each in made:
                check_finite(each, "the vocoder's audio", "hift.pt")
            return made

        function = partial(self.sound, noise=table, final=final)
        return launcher.launch(("sound", final), function, [mel, lengths], split)

    def warm_up(self, shapes: Sequence[tuple[int, int]], noise: Excitation, final: Sequence[bool] = (True,)) -> None:
        """Capture the buckets of the given shapes in advance, so that no request waits for it. Does nothing on a CPU.

        Args:
            shapes: (rows, frames) of batches.
            noise: the model's fixed noise.
            final: True for whole mels, False for unfinished ones, or both.
        """
        if not self.prepare().bucketed:
            return
        for count, frames in shapes:
            for kind in final:
                self([torch.zeros(self.size.in_channels, frames)] * count, noise, kind)

    def sound(self, mel: Tensor, lengths: Tensor, noise: Tensor, final: bool) -> Tensor:
        """Compute a batch in fixed shapes, without reading any value on the host.

        Args:
            mel: (n, 80, frames), zero beyond each row's end.
            lengths: (n,) int64, the rows' own frames.
            noise: (at least as many samples as have a pitch, harmonics).
            final: as in `forward`.

        Returns:
            Audio (n, samples). The valid samples of a row are as many as `_given` returns.
        """
        frames, per_frame = mel.shape[2], self.samples_per_frame
        # While more frames are to come, the frames of the pitch's look-ahead have no pitch of their own yet.
        pitched, own = self._pitched(frames, final), self._pitched(lengths, final)
        sounded = pitched if final else pitched - self.size.conv_pre_look_right
        f0 = self.pitch(mel)[:, :pitched].to(mel.dtype)
        source = self.m_source(f0, noise[: pitched * per_frame].to(mel.dtype))
        spectrum = self._spectrum(source, own * per_frame)
        windows = (own if final else own - self.size.conv_pre_look_right) * (per_frame // self.hop) + 1
        audio = self._inverse(self._filtered(self.conv_pre(mel)[:, :, :sounded], spectrum), windows)
        return audio.clamp(-self.size.audio_limit, self.size.audio_limit)

    @staticmethod
    def _pitched(frames, final: bool):
        """Return the number of frames that have a pitch."""
        return frames if final else frames - F0Predictor.REACH

    def _given(self, frames: int, final: bool) -> int:
        """Return the number of samples that so many frames give."""
        return (frames if final else frames - self.held_back) * self.samples_per_frame

    def _filtered(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """Compute the audio's spectrum (n, 18, windows) from the mel's features and the source's spectrum."""
        kinds = len(self.size.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, self.size.lrelu_slope))
            if i == len(self.ups) - 1:  # there is one more window than hops: the first is mirrored
                x = F.pad(x, (1, 0), mode="reflect")
            sung = self.source_downs[i](spectrum)[:, :, : x.shape[2]]
            x = x + self.source_resblocks[i](sung)
            x = sum(block(x) for block in self.resblocks[i * kinds : (i + 1) * kinds]) / kinds
        return self.conv_post(F.leaky_relu(x))

    def _spectrum(self, source: Tensor, lengths: Tensor) -> Tensor:
        """Compute the STFT (n, 18, windows), with each row mirrored at its own ends."""
        half = self.fft // 2
        ahead = torch.arange(half, device=source.device)
        mirrored = source.gather(1, lengths[:, None] - 2 - ahead)
        padded = F.pad(torch.cat((source[:, 1 : half + 1].flip(1), source), dim=1), (0, half))
        padded = padded.scatter(1, half + lengths[:, None] + ahead, mirrored)
        windows = padded.unfold(1, self.fft, self.hop) * self._window
        spectrum = torch.fft.rfft(windows).transpose(1, 2)
        return torch.cat((spectrum.real, spectrum.imag), dim=1)

    def _inverse(self, x: Tensor, windows: Tensor) -> Tensor:
        """Invert (n, 18, windows) to (n, samples); windows beyond a row's own are ignored."""
        bins = self.fft // 2 + 1
        magnitude, phase = x[:, :bins].exp().clamp(max=_LOUDEST_BIN), x[:, bins:].sin()
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        own = (torch.arange(x.shape[2], device=x.device) < windows[:, None]).to(x.dtype)[:, None]
        window = self._window[:, None]
        pieces = torch.fft.irfft(spectrum, self.fft, dim=1) * window * own
        audio, weight = self._overlapped(pieces), self._overlapped(window.square() * own)
        return audio / weight.clamp(min=1e-11)

    def _overlapped(self, pieces: Tensor) -> Tensor:
        """Add up windows (n, 16, windows), 4 samples apart; half a window is cut off at either end."""
        total = self.fft + (pieces.shape[2] - 1) * self.hop
        whole = F.fold(pieces, (1, total), (1, self.fft), stride=(1, self.hop))[:, 0, 0]
        return whole[:, self.fft // 2 : total - self.fft // 2]


def stored(directory: ModelDirectory) -> weights.Stored:
    """Describe the network and its file in a directory. Keys may carry the training wrapper's name, `generator.`."""
    return weights.Stored(
        lambda: Hift(directory.numbers.hift),
        directory / HIFT,
        double=_PITCH,
        rename=lambda key: key.replace("generator.", "", 1),
    )


def load(directory: ModelDirectory, device: str = "cpu") -> Hift:
    """Load the vocoder of a directory, float32 with the pitch in float64. Raises WeightsError as `Stored.load` does."""
    return cast(Hift, stored(directory).load()).to(device)
