"""The vocoder: causal HiFTNet (Y. A. Li et al., 2023), mel to 24 kHz audio by way of a short inverse Fourier transform.

Rows of different length share a batch and sound as they do alone. Their source is mirrored at each row's own end for
the forward transform, and the inverse one adds up and weighs each row's own frames only; the convolutions between see
no further than the row. Without that care the last 60 samples of a padded row are wrong by 1e-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

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
    """Mels in, audio out.

    `forward` takes mels and gives their audio. All that it computes is one function of fixed shapes, `sound`: on a CPU
    it is called directly, in the exact shapes of the mels; on a GPU it is captured as a CUDA graph for each bucket of
    rows and frames.

    Attributes:
        tf32: see `Launcher`; takes effect when set before the first batch.
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
        self._window: Tensor | None
        self.register_buffer("_window", None, persistent=False)
        self._launcher: Launcher  # made by `prepare`

    @property
    def device(self) -> torch.device:
        return self.conv_pre.weight.device

    @property
    def held_back(self) -> int:
        """Mel frames at the end that are only looked at while more are to come."""
        return F0Predictor.REACH + self.size.conv_pre_look_right + 1

    @property
    def samples_per_frame(self) -> int:
        return self.m_source.samples_per_frame

    def pitch(self, mel: Tensor) -> Tensor:
        """(n, 80, frames), zero beyond each row's end -> Hz (n, frames) float64.

        Float64 on a GPU too: 3.3 GFLOP for ten seconds, little beside the rest, and the source sums the pitch up.
        """
        return self.f0_predictor(mel.double())

    @property
    def window(self) -> Tensor:
        """The transforms' window (fft,), which `prepare` makes."""
        assert self._window is not None
        return self._window

    def prepare(self, launcher: Launcher | None = None) -> None:
        """Make what every batch uses. Does nothing where it is there for this device and dtype.

        Args:
            launcher: what starts batches; None makes one for the device.
        """
        weight = self.conv_pre.weight
        if self._window is None or (self._window.device, self._window.dtype) != (weight.device, weight.dtype):
            self._window = torch.hann_window(self.fft, dtype=weight.dtype).to(weight.device)
            self._launcher = launcher or Launcher(weight.device, tf32=self.tf32)
            self._launcher.synchronize()

    def forward(self, mels: Sequence[Tensor], noise: Excitation, final: bool = True) -> list[Tensor]:
        """Audio of each row, (480 frames,) float32 within ±0.99, on the host.

        Args:
            mels: (80, frames) each.
            noise: the model's fixed noise.
            final: False where more frames will come: the last eight are then held back, and what is given is, to
                1e-7, the beginning of what the whole would give.

        Raises:
            ValueError: a row is too short to give any audio.
            NotFinite: the network gave NaN or infinity for a row.
        """
        return self.launch(mels, noise, final).result()

    @torch.inference_mode()
    def launch(self, mels: Sequence[Tensor], noise: Excitation, final: bool = True) -> Pending[list[Tensor]]:
        """Start a batch. On a GPU it runs on a stream of its own, beside whatever else the device does.

        Returns:
            `Pending`, whose `result()` is what `forward` gives. ValueError as there.
        """
        frames = [mel.shape[1] for mel in mels]
        least = 1 if final else self.held_back + 1
        if min(frames) < least:
            raise ValueError(f"a mel of {min(frames)} frames is too short; the vocoder needs {least}")
        self.prepare()
        n, longest = len(mels), max(frames)
        if self._launcher.bucketed:
            n, longest = bucket(n, longest)
        mel = self._launcher.buffer((n, mels[0].shape[0], longest), self.conv_pre.weight.dtype)
        lengths = self._launcher.buffer((n,), torch.int64)
        lengths[:] = least  # of what fills the bucket up
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
        return self._launcher.launch(("sound", final), function, [mel, lengths], split)

    def warm_up(self, shapes: Sequence[tuple[int, int]], noise: Excitation, final: Sequence[bool] = (True,)) -> None:
        """Capture the buckets that these (rows, frames) fall into, so that no request waits for it. Nothing on a CPU.

        Args:
            final: whole mels, unfinished ones, or both.
        """
        self.prepare()
        if not self._launcher.bucketed:
            return
        for count, frames in shapes:
            for kind in final:
                self([torch.zeros(self.size.in_channels, frames)] * count, noise, kind)

    def sound(self, mel: Tensor, lengths: Tensor, noise: Tensor, final: bool) -> Tensor:
        """All that is computed of a batch, in fixed shapes and without a look at any value.

        Args:
            mel: (n, 80, frames), zero beyond each row's end.
            lengths: (n,) int64, the rows' own frames.
            noise: (at least as many samples as have a pitch, harmonics).
            final: as in `forward`.

        Returns:
            Audio (n, samples); of a row, so much of the beginning counts as `_given` says.
        """
        frames, per_frame = mel.shape[2], self.samples_per_frame
        # While more is to come, the frames that the pitch looks ahead to have no pitch of their own yet.
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
        """Of so many frames, those that have a pitch."""
        return frames if final else frames - F0Predictor.REACH

    def _given(self, frames: int, final: bool) -> int:
        """Samples that so many frames give."""
        return (frames if final else frames - self.held_back) * self.samples_per_frame

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

    def _spectrum(self, source: Tensor, lengths: Tensor) -> Tensor:
        """The short Fourier transform (n, 18, windows), each row mirrored at its own ends."""
        half = self.fft // 2
        ahead = torch.arange(half, device=source.device)
        mirrored = source.gather(1, lengths[:, None] - 2 - ahead)
        padded = F.pad(torch.cat((source[:, 1 : half + 1].flip(1), source), dim=1), (0, half))
        padded = padded.scatter(1, half + lengths[:, None] + ahead, mirrored)
        windows = padded.unfold(1, self.fft, self.hop) * self.window
        spectrum = torch.fft.rfft(windows).transpose(1, 2)
        return torch.cat((spectrum.real, spectrum.imag), dim=1)

    def _inverse(self, x: Tensor, windows: Tensor) -> Tensor:
        """(n, 18, windows) -> (n, samples); windows beyond a row's own count for nothing."""
        bins = self.fft // 2 + 1
        magnitude, phase = x[:, :bins].exp().clamp(max=_LOUDEST_BIN), x[:, bins:].sin()
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        own = (torch.arange(x.shape[2], device=x.device) < windows[:, None]).to(x.dtype)[:, None]
        window = self.window[:, None]
        pieces = torch.fft.irfft(spectrum, self.fft, dim=1) * window * own
        audio, weight = self._overlapped(pieces), self._overlapped(window.square() * own)
        return audio / weight.clamp(min=1e-11)

    def _overlapped(self, pieces: Tensor) -> Tensor:
        """(n, 16, windows), 4 samples apart, added up; half a window is cut off at either end."""
        total = self.fft + (pieces.shape[2] - 1) * self.hop
        whole = F.fold(pieces, (1, total), (1, self.fft), stride=(1, self.hop))[:, 0, 0]
        return whole[:, self.fft // 2 : total - self.fft // 2]


def stored(directory: ModelDirectory) -> weights.Stored[Hift]:
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
