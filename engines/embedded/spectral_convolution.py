"""Convolves over time through short Fourier transforms: fewer multiplications than a direct convolution needs.

A direct convolution of kernel k multiplies k matrices for each step of time. Here 32 steps at a time are transformed,
each frequency is multiplied by a matrix of its own, and the result is transformed back; 33 - k of the 32 steps are
valid. That takes 2.5 to 3 matrices a step, and both transforms, which are matrix products too. In float32 on a CPU with
AVX2 alone, a kernel of 11 takes half of the time and one of 7 two thirds; one of 3 gains nothing.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_KERNEL = 7
_SIZE = 32  #: steps in a transform
_BINS = _SIZE // 2 + 1


class SpectralConvolution:
    """A convolution without bias, (T, inputs) -> (T, outputs) float32, with zeros around the ends.

    Args:
        weight: (outputs, inputs, k), k odd, at most 31.
        dilation: steps between the kernel's taps.
    """

    def __init__(self, weight: Tensor, dilation: int) -> None:
        self._dilation = dilation
        self._reach = weight.shape[-1] - 1
        self._valid = _SIZE - self._reach
        self._to, back = (matrix.to(weight.device) for matrix in _transforms())
        self._all_back, self._back = back, back[: self._valid]
        # Torch convolves without turning the kernel, so each frequency gets the conjugate.
        spectrum = torch.fft.rfft(weight.double(), _SIZE).conj().permute(2, 1, 0)
        self._real = spectrum.real.float().contiguous()
        # The first and the last frequency are real: their imaginary parts are left out everywhere.
        self._imaginary = spectrum.imag[1:-1].float().contiguous()
        self._sign = 1  #: of the imaginary parts

    def turned(self) -> SpectralConvolution:
        """Return the way back: the gradient of the output -> that of the input. It shares this one's matrices."""
        other = copy.copy(self)
        other._real = self._real.transpose(1, 2)
        other._imaginary = self._imaginary.transpose(1, 2)
        other._sign = -self._sign
        # A kernel that is turned in time has the conjugate spectrum, delayed by its length.
        other._back = self._all_back[self._reach :]
        return other

    def __call__(self, x: Tensor) -> Tensor:
        steps, channels = x.shape
        dilation, valid = self._dilation, self._valid
        blocks = -(-steps // (dilation * valid))
        before = dilation * (self._reach // 2)
        x = F.pad(x, (0, 0, before, (blocks * valid + self._reach) * dilation - before - steps))
        # With a dilation of d, every d-th step belongs to a sequence of its own.
        framed = x.as_strided(
            (_SIZE, blocks, dilation, channels),
            (dilation * channels, valid * dilation * channels, channels, 1),
        )
        spectra = (self._to @ framed.reshape(_SIZE, -1)).view(_SIZE, blocks * dilation, channels)
        made = self._multiplied(spectra)
        made = (self._back @ made.view(_SIZE, -1)).view(valid, blocks, dilation, -1)
        return made.transpose(0, 1).reshape(blocks * valid * dilation, -1)[:steps]

    def _multiplied(self, spectra: Tensor) -> Tensor:
        """Multiply each frequency by its matrix: (32, n, inputs) -> (32, n, outputs), real parts first."""
        real, imaginary = spectra[:_BINS], spectra[_BINS:]
        made = spectra.new_empty(_SIZE, spectra.shape[1], self._real.shape[2])
        torch.bmm(real, self._real, out=made[:_BINS])
        made[1 : _BINS - 1].baddbmm_(imaginary, self._imaginary, alpha=-self._sign)
        torch.bmm(real[1:-1], self._imaginary, out=made[_BINS:])
        made[_BINS:].baddbmm_(imaginary, self._real[1:-1], beta=self._sign)
        return made


def _transforms() -> tuple[Tensor, Tensor]:
    """Make the matrices of the real transform and of its inverse, both (32, 32)."""
    steps = torch.arange(_SIZE, dtype=torch.float64)
    bins = torch.arange(_BINS, dtype=torch.float64)
    angles = 2 * math.pi / _SIZE * bins[:, None] * steps
    weights = torch.full((_BINS, 1), 2.0, dtype=torch.float64)
    weights[0] = weights[-1] = 1
    to = torch.cat([angles.cos(), -angles.sin()[1:-1]])
    back = torch.cat([angles.cos() * weights, (-angles.sin() * weights)[1:-1]]) / _SIZE
    return to.float(), back.T.float().contiguous()
