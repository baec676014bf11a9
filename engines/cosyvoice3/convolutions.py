"""The vocoder's building blocks are convolutions that look to one side only, and the snake activation.

Rows of different length share a batch, padded at the right. A convolution that looks back never sees the padding of a
row. For a convolution that looks ahead the caller must fill the padding with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cosyvoice3.weights import NormedConv1d


class Back(NormedConv1d):
    """A convolution over the present and the past; the output is as long as the input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class Ahead(NormedConv1d):
    """A convolution over the present and `reach` places ahead; beyond the end lie zeros."""

    @property
    def reach(self) -> int:
        return self.kernel_size[0] - 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, self.reach)))


class Up(NormedConv1d):
    """A convolution that repeats each place `factor` times, then looks back."""

    def __init__(self, inputs: int, outputs: int, kernel: int, factor: int) -> None:
        super().__init__(inputs, outputs, kernel)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        repeated = x[..., None].expand(-1, -1, -1, self.factor).flatten(2)
        return super().forward(F.pad(repeated, (self.kernel_size[0] - 1, 0)))


class Down(nn.Conv1d):
    """A convolution from `factor` places to one, twice `factor` wide. Factor 1 is a convolution of one place."""

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__(inputs, outputs, 1 if factor == 1 else 2 * factor, factor)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.stride[0] - 1, 0)))


class Snake(nn.Module):
    """The activation x + sin²(a x) / a (L. Ziyin et al., 2020), with an a for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + (1 / (alpha + 1e-9)) * (x * alpha).sin().square()


class ResBlock(nn.Module):
    """A block of pairs of a dilated and a plain convolution; each pair is added to its input."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Back(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(Back(channels, channels, kernel) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second, snake1, snake2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = second(snake2(first(snake1(x)))) + x
        return x
