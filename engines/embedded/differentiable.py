"""The way from a voice to its d-vector, arranged so that gradients flow back fast and with little memory.

`istftnet_cpu` says how the vocoder's blocks are arranged for a CPU. Here the same halves, "adaptive norm, snake,
convolution", get a backward pass of their own. It keeps nothing but the half's input (126 MB for 1.6 s of speech)
and computes the rest again, a thousand steps at a time; automatic differentiation keeps every intermediate result.
Weights are fixed, so a convolution's backward pass is a convolution with turned weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.direct_convolution import image
from engines.embedded.istftnet import SnakeBlock, VocoderNetwork
from engines.embedded.istftnet_cpu import Half, halves
from engines.embedded.spectral_convolution import SMALLEST_KERNEL, SpectralConvolution

_EPSILON = 1e-5  # of the instance norm
_STEPS_AT_ONCE = 1024  # 128 channels of float32 make half a megabyte


class DifferentiableVocoder:
    """The vocoder for one member: features (512, C), pitch (C,) and style with deltas -> waveform (300 C,).

    It computes what `istftnet` does, in float32 but for the blocks' convolutions, which are in bfloat16 on request.
    """

    def __init__(self, network: VocoderNetwork, bf16: bool) -> None:
        dtype = torch.bfloat16 if bf16 else torch.float32
        self._network = network
        self._noise_res = [_differentiable(cast(SnakeBlock, block), dtype) for block in network.noise_res]
        self._resblocks = [_differentiable(cast(SnakeBlock, block), dtype) for block in network.resblocks]

    def __call__(self, features: Tensor, pitch: Tensor, style: Tensor, seed: int) -> Tensor:
        """Compute the waveform. Gradients flow to the features and to `style`, (128 + `network.deltas`,)."""
        network = self._network
        with torch.no_grad():
            source = network.source_spectrum(pitch[None], torch.tensor([len(pitch)]), [seed])
            asides = [cast(nn.Conv1d, conv)(source)[0].T.contiguous() for conv in network.noise_convs]
        x = features[None]
        for step, (up, aside) in enumerate(zip(cast(Iterable[nn.Module], network.ups), asides, strict=True)):
            x = up(F.leaky_relu(x, 0.1))
            if step == 1:
                x = F.pad(x, (1, 0), mode="reflect")  # an STFT of n hops has n + 1 columns
            rows = x[0].T + _block(self._noise_res[step], aside, style)
            blocks = [_block(block, rows, style) for block in self._resblocks[3 * step : 3 * step + 3]]
            x = (blocks[0] + blocks[1] + blocks[2]).T[None] / 3
        return network.waveform(x)[0]


class _DifferentiableHalf:
    """A half with its weights turned for the way back."""

    def __init__(self, half: Half) -> None:
        self.half = half
        turned = half.weight.flip(-1).transpose(0, 1)
        self.turned = turned.contiguous(memory_format=torch.channels_last)
        self._spectral: SpectralConvolution | None = None
        # On a GPU, and in bfloat16 where a CPU has it, direct convolutions are faster.
        if half.weight.dtype == torch.float32 and half.weight.device.type == "cpu":
            if half.weight.shape[-1] >= SMALLEST_KERNEL:
                self._spectral = SpectralConvolution(half.weight[:, :, 0], half.bias, half.dilation)
                self._spectral_back = self._spectral.turned()

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        """Compute (T, C) float32 from x (T, C) float32."""
        scale, shift = self.half.style(style)
        return cast(Tensor, _NormSnakeConvolution.apply(x, scale, shift, self))

    def convolved(self, x: Tensor) -> Tensor:
        half = self.half
        if self._spectral is not None:
            return self._spectral(x)
        return self._convolution(x, half.weight, half.bias)

    def convolved_back(self, gradient: Tensor) -> Tensor:
        if self._spectral is not None:
            return self._spectral_back(gradient)
        return self._convolution(gradient.to(self.turned.dtype), self.turned, None)

    def _convolution(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dilation = self.half.dilation
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(image(x), weight, bias, padding=(0, padding), dilation=(1, dilation))[0, :, 0].T


class _NormSnakeConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, half: _DifferentiableHalf) -> Tensor:
        mean, variance = torch.batch_norm_update_stats(image(x), None, None, 0.0)
        deviation = torch.rsqrt(variance + _EPSILON)
        ctx.half = half
        ctx.save_for_backward(x, scale, shift, mean, deviation)
        factor = scale * deviation
        offset = shift - mean * factor
        activated = torch.empty_like(x, dtype=half.half.weight.dtype)
        for part in _parts(len(x)):
            h = torch.addcmul(offset, x[part], factor)
            waves = torch.sin(h)
            activated[part] = h.addcmul_(waves, waves)
        return half.convolved(activated).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, scale, shift, mean, deviation = ctx.saved_tensors
        factor = scale * deviation
        offset = shift - mean * factor
        gradient = ctx.half.convolved_back(gradients[0]).float().contiguous()
        total, product = torch.zeros_like(mean), torch.zeros_like(mean)
        for part in _parts(len(x)):
            # The snake's derivative is 1 + sin 2h.
            slope = torch.addcmul(offset, x[part], factor).mul_(2).sin_().add_(1)
            rows = gradient[part].mul_(slope)
            total += rows.sum(0)
            product += slope.copy_(rows).mul_(x[part]).sum(0)
        to_scale = (product - mean * total) * deviation
        # The norm's derivative: the mean of the gradient, and its part along x, fall out.
        along = -factor * deviation * to_scale / len(x)
        constant = -factor * total / len(x) - along * mean
        for part in _parts(len(x)):
            gradient[part].mul_(factor).addcmul_(x[part], along).add_(constant)
        return gradient, to_scale, total, None


def _parts(steps: int) -> list[slice]:
    return [slice(start, start + _STEPS_AT_ONCE) for start in range(0, steps, _STEPS_AT_ONCE)]


def _differentiable(block: SnakeBlock, dtype: torch.dtype) -> list[_DifferentiableHalf]:
    return [_DifferentiableHalf(half) for half in halves(block, dtype)]


def _block(block: list[_DifferentiableHalf], x: Tensor, style: Tensor) -> Tensor:
    for first, second in zip(block[::2], block[1::2], strict=True):
        x = x + second(first(x, style), style)
    return x


class Resampler:
    """A resampler from 24 to 16 kHz that gradients flow through: a windowed sinc, with its edge at 7.6 kHz."""

    _HALF = 30  # samples at 24 kHz on either side

    def __init__(self, device: torch.device | str = "cpu") -> None:
        offsets = np.arange(-self._HALF, self._HALF + 1)
        kernels = []
        for shift in (0.0, 1.5):  # two samples at 16 kHz for three at 24 kHz
            t = offsets - shift
            edge = 2 / 3 * 0.95
            window = np.i0(8.0 * np.sqrt(np.clip(1 - (t / (self._HALF + 2)) ** 2, 0, 1))) / np.i0(8.0)
            kernel = edge * np.sinc(edge * t) * window
            kernels.append(kernel / kernel.sum())
        self._kernels = torch.tensor(np.stack(kernels)[:, None], dtype=torch.float32, device=device)

    def __call__(self, samples: Tensor) -> Tensor:
        """Resample (n,) to (2n / 3,)."""
        both = F.conv1d(samples[None, None], self._kernels, stride=3, padding=self._HALF)
        return both[0].T.reshape(-1)
