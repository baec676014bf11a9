"""Computes the vocoder's transposed convolutions as one product of matrices each."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Upsampling:
    """A leaky ReLU and a transposed convolution whose kernel is twice its stride, as one product of matrices.

    Each step of the input makes two strides of the output, and each stride is the sum of two steps' halves.

    Args:
        convolution: the plain module.
        dtype: of the product.
        multiple: the steps of the input are filled up to a multiple of this.
    """

    def __init__(self, convolution: nn.ConvTranspose1d, dtype: torch.dtype, multiple: int) -> None:
        inputs, outputs, kernel = convolution.weight.shape
        self._stride, self._padding = convolution.stride[0], cast(tuple[int], convolution.padding)[0]
        assert kernel == 2 * self._stride and convolution.bias is not None
        self._weight = convolution.weight.detach().permute(2, 1, 0).reshape(kernel * outputs, inputs).to(dtype)
        self._bias = convolution.bias.detach()
        self._multiple = multiple

    def __call__(self, x: Tensor) -> Tensor:
        """Compute a new (stride T, C') float32, or a little longer, from x (T, C) float32."""
        rows = F.leaky_relu(x, 0.1).to(self._weight.dtype)
        rows = F.pad(rows, (0, 0, 0, -len(rows) % self._multiple))
        steps, channels = len(rows) * self._stride, len(self._bias)
        first, second = F.linear(rows, self._weight).view(len(rows), 2, self._stride, channels).unbind(1)
        made = torch.empty(steps + self._stride, channels)
        made[:steps].view(first.shape).copy_(first)
        made[steps:] = 0
        made[self._stride :].view(second.shape).add_(second)
        return made[self._padding : self._padding + steps].add_(self._bias)
