"""Convolves over time by oneDNN, tile by tile, with weights that are packed once and not again for each tile.

oneDNN compiles a kernel for each shape that it meets, so tiles have few lengths. Each is large: threads wait for
Python's lock between operations, and short operations are over sooner than a thread wakes up. docs/speed.md has the
measurements.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engines.embedded.tiles import tiles

#: steps that are computed at a time; 2,688 are a stream's first part, 0.3 s with what is computed around it
TILES = 4096, 2688, 2048, 1024, 512
_FULL_ENOUGH = 0.55  #: share of a tile that is worth computing all of it, in place of two smaller ones


class DirectConvolution:
    """A convolution that keeps the channels, (T, C) -> (T, C), in the weight's type.

    Args:
        weight: (C, C, 1, k), channels last, k odd.
        bias: (C,).
        dilation: steps between the kernel's taps.

    Attributes:
        halo: steps on either side of a tile that it reads too.
        shortest_part: steps that one thread computes at least. With AMX it is done with less before two have met.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dilation: int) -> None:
        self.halo = dilation * (weight.shape[-1] // 2)
        amx = weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
        self.shortest_part = TILES[0] if amx else TILES[-1]
        self._weight, self._bias, self._dilation = weight, bias, dilation
        self._around = [0, 0], [1, 1], [1, dilation], 1  # padding, strides, dilation, groups
        self._packed = takes_packed(weight.dtype)
        if self._packed:
            shape = [1, len(weight), 1, TILES[-1] + 2 * self.halo]
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._around, shape)

    def tiles(self, steps: int) -> list[int]:
        """List the sizes of the tiles that cover `steps` steps, large ones first; the last may reach beyond the end."""
        return tiles(steps, TILES, _FULL_ENOUGH)

    def warm_up(self) -> None:
        """Have the kernel of each tile length compiled."""
        for size in TILES:
            self.inner(torch.zeros(size + 2 * self.halo, len(self._bias), dtype=self._bias.dtype))

    def inner(self, x: Tensor) -> Tensor:
        """Convolve a tile with its halos: (tile + 2 halo, C) -> (tile, C)."""
        if self._packed:
            made = torch.ops.mkldnn._convolution_pointwise(
                image(x), self._weight, self._bias, *self._around, "none", [], ""
            )
        else:
            made = F.conv2d(image(x), self._weight, self._bias, dilation=(1, self._dilation))
        return made[0, :, 0].T


def image(x: Tensor) -> Tensor:
    """View x (T, C) as (1, C, 1, T) in channels-last memory, without a copy."""
    return x.T[None, :, None]


def takes_packed(dtype: torch.dtype) -> bool:
    """Tell if oneDNN is there and takes this type on this CPU. It refuses bfloat16 that would have to be emulated."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
