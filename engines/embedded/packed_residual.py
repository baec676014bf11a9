"""A residual block of the acoustic model whose tensors lie as (time, channels), as its products take and give them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.blocks import AdaptiveNorm, ResidualBlock
from engines.embedded.norm_moments import moments_of, with_norm
from engines.embedded.packed_layers import PackedConv1d, Precision


class PackedResidualBlock(nn.Module):
    """Does what a `blocks.ResidualBlock` does, for batches in which nothing is padded.

    It takes any memory layout, and gives a view of (T, outputs) for each member, which the next one reads as it lies.
    """

    def __init__(self, block: ResidualBlock, precision: Precision) -> None:
        super().__init__()
        self.norms = nn.ModuleList([block.norm1, block.norm2])
        self._convolutions = PackedConv1d(block.conv1, precision), PackedConv1d(block.conv2, precision)
        self._shortcut = None if block.conv1x1 is None else PackedConv1d(block.conv1x1, precision)
        self._upsampling = None if block.pool is None else DepthwiseUpsampling(block.pool)

    def forward(self, x: Tensor, style: Tensor, mask: Tensor | None = None, mask_after: Tensor | None = None) -> Tensor:
        """Compute (B, outputs, T or 2T) from x (B, inputs, T). Raises ValueError if there is a mask."""
        if mask is not None or mask_after is not None:
            raise ValueError("a packed block computes members that are not padded")
        coloured = [[norm.coloured(row[None]) for norm in cast(Iterable[AdaptiveNorm], self.norms)] for row in style]
        made = [self._one(member.T, *pair) for member, pair in zip(x, coloured, strict=True)]
        return (made[0][None] if len(made) == 1 else torch.stack(made)).transpose(1, 2)

    def _one(self, x: Tensor, before: Tensor, between: Tensor) -> Tensor:
        """Compute one member, (T, inputs) -> (T or 2T, outputs)."""
        x = x.contiguous()
        h = _normed(x, before)
        if self._upsampling is not None:
            h = self._upsampling(h)
        h = self._convolutions[0].rows(h)
        h = self._convolutions[1].rows(_normed(h, between))
        if self._shortcut is not None:
            x = self._shortcut.rows(x)
        if self._upsampling is not None:
            x = x.repeat_interleave(2, dim=0)
        return h.add_(x).mul_(math.sqrt(0.5))

    def warm_up(self) -> None:
        """Have the kernels of all tile sizes compiled."""
        for convolution in (*self._convolutions, self._shortcut):
            if convolution is not None:
                convolution.warm_up()


class DepthwiseUpsampling:
    """A transposed convolution of each channel by itself, kernel 3 and stride 2, as sums: (T, C) -> (2T, C)."""

    def __init__(self, convolution: nn.ConvTranspose1d) -> None:
        kind = convolution.kernel_size, convolution.stride, convolution.padding, convolution.output_padding
        assert kind == ((3,), (2,), (1,), (1,)) and convolution.groups == convolution.in_channels
        self._before, self._middle, self._after = convolution.weight.detach()[:, 0].T.contiguous()
        self._bias = torch.zeros_like(self._middle) if convolution.bias is None else convolution.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        made = torch.empty(len(x), 2, x.shape[1])
        torch.addcmul(self._bias, x, self._middle, out=made[:, 0])
        torch.addcmul(self._bias, x, self._after, out=made[:, 1])
        made[:-1, 1].addcmul_(x[1:], self._before)
        return made.view(-1, x.shape[1])


def _normed(x: Tensor, coloured: Tensor) -> Tensor:
    """Compute an adaptive norm of x (T, C) and a leaky ReLU. `coloured` (1, 2C) is the norm's, for a style."""
    scale, shift = coloured[0].chunk(2)
    scale, shift = with_norm((1 + scale, shift), moments_of(x))
    return F.leaky_relu_(torch.addcmul(shift, x, scale), 0.2)
