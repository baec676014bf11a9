"""The iSTFTNet vocoder arranged for a CPU computes the numbers of `istftnet` two to three times as fast.

Nearly all of the vocoder's time goes into 48 pairs of "adaptive norm + snake" and convolution. They are arranged so:

- Tensors lie as (time, channels), the layout in which oneDNN convolves without reordering.
- The norm's scale and shift take in the snake's α, so that αx + sin²(αx) needs two passes; the division by α that is
  left is part of the next convolution's weights.
- These passes run over a thousand time steps at a time, which stay in the second-level cache.
- Convolutions run over tiles of two lengths, and the other layers over padded lengths. oneDNN compiles and keeps a
  kernel for each shape that it meets: with whole utterances each new length cost time and memory.
- Convolutions may run in bfloat16. Norms, activations and the residual sum stay in float32.

docs/speed.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.blocks import STYLE, AdaptiveNorm, with_deltas
from engines.embedded.istftnet import SnakeBlock, VocoderNetwork

STEPS_AT_ONCE = 1024  #: 128 channels of float32 make half a megabyte
_TILES = (
    4096,
    512,
)  #: steps that a convolution computes at a time, larger tiles first; the last tile may be padded
_COLUMNS = 64  #: the layers between the blocks work on a multiple of this many columns; zeros fill the end


class CpuVocoder:
    """A vocoder that is called like `VocoderNetwork`, takes over its weights, and computes one member at a time."""

    def __init__(self, network: VocoderNetwork, bf16: bool) -> None:
        self.bf16 = bf16
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._network = network
        self._noise_res = [halves(cast(SnakeBlock, block), self._dtype) for block in network.noise_res]
        self._resblocks = [halves(cast(SnakeBlock, block), self._dtype) for block in network.resblocks]
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
            x = self._block(self._noise_res[step], aside, style).add_(x)
            total, *others = [self._block(block, x, style) for block in self._resblocks[3 * step : 3 * step + 3]]
            for other in others:
                total.add_(other)
            x = total.div_(3).T[None]
        last = self._network.conv_post(_filled_up(F.leaky_relu(x, 0.01), 60 * _COLUMNS))
        return self._network.inverse(last[:, :, : x.shape[-1]])

    def _block(self, halves: list[Half], x: Tensor, style: Tensor) -> Tensor:
        """Apply a SnakeBlock to x (T, C) float32; returns a new (T, C) float32."""
        x = x.clone()
        for first, second in zip(halves[::2], halves[1::2], strict=True):
            x.add_(second(first(x, style, self._dtype), style, self._dtype))
        return x


@dataclass(frozen=True)
class Half:
    """An adaptive norm, snake and convolution, with α and its inverse moved into the weights around the activation."""

    style_weight: Tensor  #: (2C, 128)
    style_bias: Tensor  #: (2C,)
    alpha: Tensor  #: (2C,) α twice, for scale and shift
    slot: slice  #: its deltas in a row of style and deltas
    weight: Tensor  #: (C, C, 1, kernel), channels last
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

    def __call__(self, x: Tensor, style: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute (T, C) in `dtype` from x (T, C) of any float type."""
        halo = self.dilation * (self.weight.shape[-1] // 2)
        steps, tiles = len(x), _tiles(len(x))
        # The buffer holds the convolution's padding, so that tiles overlap and need no padding of their own.
        padded = torch.empty(halo + sum(tiles) + halo, x.shape[1], dtype=dtype)
        padded[:halo] = 0
        padded[halo + steps :] = 0
        self._activate(x, style, padded[halo : halo + steps])
        made, start = torch.empty(sum(tiles), x.shape[1], dtype=dtype), 0
        for size in tiles:
            tile = image(padded[start : start + size + 2 * halo])
            result = F.conv2d(tile, self.weight, self.bias, dilation=(1, self.dilation))
            made[start : start + size] = result[0, :, 0].T
            start += size
        return made[:steps]

    def _activate(self, x: Tensor, style: Tensor, activated: Tensor) -> None:
        """Write norm and snake of x (T, C) into `activated`."""
        scale, shift = self.scale_and_shift(style)
        mean, variance = torch.batch_norm_update_stats(image(x), None, None, 0.0)
        scale = scale * torch.rsqrt(variance.float() + 1e-5)
        shift = shift - mean.float() * scale
        for start in range(0, len(x), STEPS_AT_ONCE):
            part = slice(start, start + STEPS_AT_ONCE)
            h = torch.addcmul(shift, x[part].float(), scale)
            waves = torch.sin(h)
            activated[part] = h.addcmul_(waves, waves)


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


def _tiles(steps: int) -> list[int]:
    """List the sizes of the tiles that cover `steps` steps, large ones first; the last may reach beyond the end."""
    large, small = _TILES
    return [large] * (steps // large) + [small] * -(-(steps % large) // small)


def _filled_up(x: Tensor, multiple: int) -> Tensor:
    """Pad x (1, C, T) with zeros at the end, up to a multiple of `multiple` steps."""
    return F.pad(x, (0, -x.shape[-1] % multiple))
