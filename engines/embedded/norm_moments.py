"""The moments of an adaptive norm's input (time, channels), and what they make of its scale and shift."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.embedded.direct_convolution import image

Scaled = tuple[Tensor, Tensor]  #: a scale and a shift, (C,) each
Moments = tuple[int, Tensor, Tensor]  #: how many steps, their mean (C,) and variance (C,), both float32


def moments_of(x: Tensor) -> Moments:
    """Measure a part of an input (P, C) of any float type."""
    mean, variance = torch.batch_norm_update_stats(image(x), None, None, 0.0)
    return len(x), mean.float(), variance.float()


def together(moments: Sequence[Moments]) -> Moments:
    """Put the moments of parts together to those of the whole."""
    counts = torch.tensor([float(steps) for steps, _, _ in moments])
    means, variances = (torch.stack(rows) for rows in list(zip(*moments, strict=True))[1:])
    shares = counts / counts.sum()
    mean = shares @ means
    return int(counts.sum()), mean, shares @ (variances + (means - mean).square())


def with_norm(styled: Scaled, moments: Moments) -> Scaled:
    """Take the norm of an input into a style's scale and shift."""
    (scale, shift), (_, mean, variance) = styled, moments
    scale = scale * torch.rsqrt(variance + 1e-5)
    return scale, shift - mean * scale


def with_norms(styled: Sequence[Scaled], moments: Sequence[Moments]) -> list[Scaled]:
    """Do what `with_norm` does for many norms at once."""
    scales, shifts = (torch.cat(numbers) for numbers in zip(*styled, strict=True))
    means, variances = (torch.cat(numbers) for numbers in list(zip(*moments, strict=True))[1:])
    sizes = [len(scale) for scale, _ in styled]
    both = with_norm((scales, shifts), (0, means, variances))
    return list(zip(*(numbers.split(sizes) for numbers in both), strict=True))
