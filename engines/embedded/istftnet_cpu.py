"""The iSTFTNet vocoder arranged for a CPU computes the numbers of `istftnet` two to three times as fast.

Nearly all of the vocoder's time goes into 48 pairs of "adaptive norm + snake" and convolution. They are arranged so:

- Tensors lie as (time, channels), the layout in which oneDNN convolves without reordering.
- The norm's scale and shift take in the snake's α, so that αx + sin²(αx) needs two passes; the division by α that is
  left is part of the next convolution's weights.
- These passes run over a thousand time steps at a time, which stay in the second-level cache.
- Each thread takes a part of the time through a whole block (`thread_team`); a norm's mean and variance are put
  together from those of the parts.
- Convolutions run over tiles of two lengths, and the other layers over padded lengths. oneDNN compiles and keeps a
  kernel for each shape that it meets: with whole utterances each new length cost time and memory.
- Convolutions may run in bfloat16. Norms, activations and the residual sum stay in float32.
- In float32, convolutions of kernel 7 and 11 run through short Fourier transforms (`spectral_convolution`).

docs/speed.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.blocks import STYLE, AdaptiveNorm, with_deltas
from engines.embedded.istftnet import SnakeBlock, VocoderNetwork
from engines.embedded.spectral_convolution import SMALLEST_KERNEL, SpectralConvolution
from engines.embedded.thread_team import Meet, ThreadTeam

STEPS_AT_ONCE = 1024  #: 128 channels of float32 make half a megabyte
_TILES = (
    4096,
    512,
)  #: steps that a convolution computes at a time, larger tiles first; the last tile may be padded
_COLUMNS = 64  #: the layers between the blocks work on a multiple of this many columns; zeros fill the end


class CpuVocoder:
    """A vocoder that is called like `VocoderNetwork`, takes over its weights, and computes one member at a time.

    Args:
        network: the plain network.
        bf16: convolve in bfloat16.
        threads: that compute a member.
    """

    def __init__(self, network: VocoderNetwork, bf16: bool, threads: int = 1) -> None:
        self.bf16 = bf16
        team = ThreadTeam(threads)
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._network = network
        self._noise_res = [CpuBlock(cast(SnakeBlock, block), team, self._dtype) for block in network.noise_res]
        self._resblocks = [CpuBlock(cast(SnakeBlock, block), team, self._dtype) for block in network.resblocks]
        self._ups = [
            nn.ConvTranspose1d(
                up.in_channels, up.out_channels, up.kernel_size[0], up.stride[0], cast(tuple[int], up.padding)[0]
            )
            for up in cast(Iterable[nn.ConvTranspose1d], network.ups)
        ]
        for ours, theirs in zip(self._ups, network.ups, strict=True):
            ours.load_state_dict(theirs.state_dict())
            ours.requires_grad_(False).to(self._dtype)

    @torch.inference_mode()
    def __call__(
        self,
        features: Tensor,
        pitch: Tensor,
        style: Tensor,
        columns: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        deltas: Tensor | None = None,
    ) -> Tensor:
        """Compute (B, 300 C) as `VocoderNetwork.forward` does, with zeros after each member's end.

        Args:
            features: (B, 512, C).
            pitch: (B, C) in Hz.
            style: (B, 128) or (B, 256), acoustic half first.
            columns: as in `VocoderNetwork.forward`.
            seeds: as in `VocoderNetwork.forward`.
            deltas: as in `VocoderNetwork.forward`.
        """
        valid = [pitch.shape[1]] * len(pitch) if columns is None else columns.tolist()
        styles = with_deltas(style[:, :STYLE], deltas)
        waveforms = [
            self._one(features[i : i + 1, :, :n], pitch[i : i + 1, :n], styles[i], seed)[0]
            for i, (n, seed) in enumerate(zip(valid, seeds or [0] * len(pitch), strict=True))
        ]
        return nn.utils.rnn.pad_sequence(waveforms, batch_first=True)

    def _one(self, features: Tensor, pitch: Tensor, style: Tensor, seed: int) -> Tensor:
        columns = pitch.shape[1]
        source = self._network.source_spectrum(pitch, torch.tensor([columns]), [seed])
        # Each layer's own padding would put the same zeros after the end.
        source = _filled_up(source, 60 * _COLUMNS)
        x = features
        for step, up in enumerate(self._ups):
            steps = columns * (10, 60)[step]
            x = up(_filled_up(F.leaky_relu(x, 0.1).to(self._dtype), _COLUMNS * (1, 10)[step]))[0, :, :steps].T
            if step == 1:
                x = torch.cat([x[1:2], x])  # reflection: an STFT of n hops has n + 1 columns
            aside = self._network.noise_convs[step](source)[0, :, : len(x)].T.contiguous()
            x = self._noise_res[step](aside, style).add_(x)
            total, *others = [block(x, style) for block in self._resblocks[3 * step : 3 * step + 3]]
            for other in others:
                total.add_(other)
            x = total.div_(3).T[None]
        last = self._network.conv_post(_filled_up(F.leaky_relu(x, 0.01), 60 * _COLUMNS))
        return self._network.inverse(last[:, :, : x.shape[-1]])


class CpuBlock:
    """A SnakeBlock in six halves, computed by a team: each thread takes a part of the time through all of them."""

    def __init__(self, block: SnakeBlock, team: ThreadTeam, dtype: torch.dtype) -> None:
        self._halves = _fastest(halves(block, dtype))
        self._team = team
        self._dtype = dtype

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        """Compute a new (T, C) float32 from x (T, C) float32 and a style as `Half.scale_and_shift` takes it."""
        parts = _parts(len(x), self._team.size)
        styled = [half.scale_and_shift(style) for half in self._halves]
        moments: list[list[Moments | None]] = [[None] * len(parts) for _ in self._halves]
        x = x.clone()
        between = torch.empty(len(x), x.shape[1], dtype=self._dtype)

        def work(number: int, meet: Meet) -> None:
            # A half reads a little of its neighbours' parts, and its norm is over all of them: so all parts of its
            # input have to be there. No part writes what another may still be reading: that was read before they met.
            part = parts[number]
            for index, (half, (scale, shift)) in enumerate(zip(self._halves, styled, strict=True)):
                source = x if index % 2 == 0 else between
                moments[index][number] = _moments(source[part])
                meet()
                made = half(source, part, *_normed(scale, shift, cast(list[Moments], moments[index])), self._dtype)
                if index % 2 == 0:
                    between[part] = made
                else:
                    x[part] += made

        self._team.run(len(parts), work)
        return x


@dataclass(frozen=True)
class Half:
    """An adaptive norm, snake and convolution, with α and its inverse moved into the weights around the activation."""

    style_weight: Tensor  #: (2C, 128)
    style_bias: Tensor  #: (2C,)
    alpha: Tensor  #: (2C,) α twice, for scale and shift
    slot: slice  #: its deltas in a row of style and deltas
    weight: Tensor  #: (C, C, 1, kernel), channels last; empty in a `SpectralHalf`
    bias: Tensor  #: (C,)
    dilation: int

    @classmethod
    def of(cls, norm: AdaptiveNorm, alpha: Tensor, conv: nn.Conv1d, dtype: torch.dtype) -> Half:
        assert conv.bias is not None and norm.slot is not None
        alpha = alpha.detach().flatten()
        bias = norm.fc.bias.detach() + torch.cat([torch.ones_like(alpha), torch.zeros_like(alpha)])
        weight = (conv.weight.detach() / alpha[:, None]).to(dtype)[:, :, None]
        return cls(
            norm.fc.weight.detach() * alpha.repeat(2)[:, None],
            bias * alpha.repeat(2),
            alpha.repeat(2),
            norm.slot,
            weight.contiguous(memory_format=torch.channels_last),
            conv.bias.detach().to(dtype),
            conv.dilation[0],
        )

    def scale_and_shift(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scale and shift (C,), times α, from a style (128,) or from a style and all deltas (128 + D,)."""
        both = torch.addmv(self.style_bias, self.style_weight, style[:STYLE])
        if len(style) > STYLE:
            both = torch.addcmul(both, style[self.slot], self.alpha)
        scale, shift = both.chunk(2)
        return scale, shift

    def __call__(self, x: Tensor, part: slice, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute a part of the steps, (P, C) in `dtype`, from all of x (T, C) of any float type.

        Args:
            x: the half's input.
            part: the steps to compute.
            scale: (C,), of the norm and the snake.
            shift: (C,).
            dtype: the result's.
        """
        halo = self.dilation * (self.weight.shape[-1] // 2)
        tiles = _tiles(part.stop - part.start)
        # The buffer holds the convolution's padding, so that tiles overlap and need no padding of their own.
        padded = _activated(x, part.start - halo, halo + sum(tiles) + halo, part.stop + halo, scale, shift, dtype)
        made, start = torch.empty(sum(tiles), x.shape[1], dtype=dtype), 0
        for size in tiles:
            tile = image(padded[start : start + size + 2 * halo])
            result = F.conv2d(tile, self.weight, self.bias, dilation=(1, self.dilation))
            made[start : start + size] = result[0, :, 0].T
            start += size
        return made[: part.stop - part.start]


@dataclass(frozen=True)
class SpectralHalf(Half):
    """A half that convolves through short Fourier transforms."""

    convolution: SpectralConvolution

    @classmethod
    def of_half(cls, half: Half) -> Self:
        same = {field.name: getattr(half, field.name) for field in fields(half)}
        convolution = SpectralConvolution(half.weight[:, :, 0], half.bias, half.dilation)
        return cls(**same | {"weight": half.weight.new_empty(0)}, convolution=convolution)

    def __call__(self, x: Tensor, part: slice, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute a part of the steps, (P, C) float32, as `Half` does."""
        steps = part.stop - part.start
        before, after = self.convolution.padding(steps)
        padded = _activated(x, part.start - before, before + steps + after, part.stop + before, scale, shift, dtype)
        return self.convolution.inner(padded)[:steps]


Moments = tuple[int, Tensor, Tensor]  #: how many steps, their mean (C,) and variance (C,), both float32


def _moments(x: Tensor) -> Moments:
    """Measure a part of an input (P, C) of any float type."""
    mean, variance = torch.batch_norm_update_stats(image(x), None, None, 0.0)
    return len(x), mean.float(), variance.float()


def _normed(scale: Tensor, shift: Tensor, moments: Sequence[Moments]) -> tuple[Tensor, Tensor]:
    """Take the norm of an input, given in parts, into a style's scale and shift (C,)."""
    counts = torch.tensor([float(steps) for steps, _, _ in moments])
    means, variances = (torch.stack(rows) for rows in list(zip(*moments, strict=True))[1:])
    shares = counts / counts.sum()
    mean = shares @ means
    variance = shares @ (variances + (means - mean).square())
    scale = scale * torch.rsqrt(variance + 1e-5)
    return scale, shift - mean * scale


def _activated(
    x: Tensor, start: int, steps: int, needed: int, scale: Tensor, shift: Tensor, dtype: torch.dtype
) -> Tensor:
    """Compute norm and snake of steps of x (T, C): (steps, C) in `dtype`.

    Args:
        x: the input.
        start: the first step; steps before the input's first are zeros.
        steps: how many.
        needed: the step to stop before; zeros are after it, and after the input's last.
        scale: (C,), of the norm and the snake.
        shift: (C,).
        dtype: the result's.
    """
    activated = torch.empty(steps, x.shape[1], dtype=dtype)
    first, last = max(start, 0), min(needed, len(x), start + steps)
    activated[: first - start] = 0
    activated[last - start :] = 0
    for position in range(first, last, STEPS_AT_ONCE):
        end = min(position + STEPS_AT_ONCE, last)
        h = torch.addcmul(shift, x[position:end].float(), scale)
        waves = torch.sin(h)
        activated[position - start : end - start] = h.addcmul_(waves, waves)
    return activated


def _fastest(block: list[Half]) -> list[Half]:
    """Return the halves of a block as a CPU computes them fastest."""
    return [
        SpectralHalf.of_half(half)
        if half.weight.dtype == torch.float32 and half.weight.shape[-1] >= SMALLEST_KERNEL
        else half
        for half in block
    ]


def halves(block: SnakeBlock, dtype: torch.dtype) -> list[Half]:
    """Return the six halves of a block, in the order of their computation."""
    return [
        Half.of(cast(AdaptiveNorm, norms[i]), alphas[i], cast(nn.Conv1d, convs[i]), dtype)
        for i in range(3)
        for norms, alphas, convs in (
            (block.adain1, block.alpha1, block.convs1),
            (block.adain2, block.alpha2, block.convs2),
        )
    ]


def image(x: Tensor) -> Tensor:
    """View x (T, C) as (1, C, 1, T) in channels-last memory, without a copy."""
    return x.T[None, :, None]


def _parts(steps: int, most: int) -> list[slice]:
    """Cut `steps` steps into at most `most` parts of nearly the same size, each of whole tiles but for the last."""
    small = _TILES[-1]
    count = min(most, max(1, steps // small))
    cuts = [round(steps * number / count / small) * small for number in range(count)] + [steps]
    return [slice(start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]


def _tiles(steps: int) -> list[int]:
    """List the sizes of the tiles that cover `steps` steps, large ones first; the last may reach beyond the end."""
    large, small = _TILES
    return [large] * (steps // large) + [small] * -(-(steps % large) // small)


def _filled_up(x: Tensor, multiple: int) -> Tensor:
    """Pad x (1, C, T) with zeros at the end, up to a multiple of `multiple` steps."""
    return F.pad(x, (0, -x.shape[-1] % multiple))
