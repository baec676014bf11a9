"""Convolves over time through short Fourier transforms: fewer multiplications than a direct convolution needs.

A direct convolution of kernel k multiplies k matrices for each step of time. Here 32 steps at a time are transformed,
each frequency is multiplied by a matrix of its own, and the result is transformed back; 33 - k of the 32 steps are
valid. That takes 2.5 to 3 matrices a step, and both transforms, which are matrix products too. In float32 on a CPU with
AVX2 alone, a kernel of 11 takes half of the time or less, and one of 7 a half to two thirds; one of 3 gains nothing.

It keeps 32 matrices where a direct convolution keeps k.
"""

from __future__ import annotations

import copy
import math
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_KERNEL = 7
STEPS_AT_ONCE = 4096  #: the spectra of 128 channels make 3 MB; tiles are no larger
_SIZE = 32  #: steps in a transform
_BINS = _SIZE // 2 + 1


class SpectralConvolution:
    """A convolution, (T, inputs) -> (T, outputs) float32, with zeros around the ends.

    Args:
        weight: (outputs, inputs, k), k odd, at most 31.
        bias: (outputs,), or None.
        dilation: steps between the kernel's taps.

    Attributes:
        shortest_part: steps that one thread computes at least.
    """

    shortest_part = 128

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int) -> None:
        self._dilation = dilation
        self._reach = weight.shape[-1] - 1
        self.halo = dilation * (self._reach // 2)  #: steps on either side of a tile that `inner` reads too
        self._valid = _SIZE - self._reach
        self._to, back = (matrix.to(weight.device) for matrix in _transforms())
        self._all_back, self._back = back, back[: self._valid]
        # Torch convolves without turning the kernel, so each frequency gets the conjugate.
        spectrum = torch.fft.rfft(weight.double(), _SIZE).conj().permute(2, 1, 0)
        self._real = spectrum.real.float().contiguous()
        # The first and the last frequency are real: their imaginary parts are left out everywhere.
        self._imaginary = spectrum.imag[1:-1].float().contiguous()
        self._sign = 1  #: of the imaginary parts
        self._constant = None if bias is None else bias * _SIZE  #: the first frequency of a constant

    def turned(self) -> SpectralConvolution:
        """Return the way back: the gradient of the output -> that of the input. It shares this one's matrices."""
        other = copy.copy(self)
        other._real = self._real.transpose(1, 2)
        other._imaginary = self._imaginary.transpose(1, 2)
        other._sign = -self._sign
        other._constant = None
        # A kernel that is turned in time has the conjugate spectrum, delayed by its length.
        other._back = self._all_back[self._reach :]
        return other

    def __call__(self, x: Tensor) -> Tensor:
        tiles = self.tiles(len(x))
        padded = F.pad(x, (0, 0, self.halo, sum(tiles) + self.halo - len(x)))
        ends = list(accumulate(tiles))
        made = [self.inner(padded[end - size : end + 2 * self.halo]) for end, size in zip(ends, tiles, strict=True)]
        return torch.cat(made)[: len(x)]

    def tiles(self, steps: int) -> list[int]:
        """List the sizes of tiles that cover `steps` steps, each a multiple of what `inner` computes at a time."""
        whole = self._dilation * self._valid
        large = STEPS_AT_ONCE // whole * whole
        rest = steps % large
        return [large] * (steps // large) + ([-(-rest // whole) * whole] if rest else [])

    def inner(self, x: Tensor) -> Tensor:
        """Convolve a contiguous tile with its halos: (tile + 2 halo, inputs) -> (tile, outputs)."""
        channels, outputs = self._real.shape[1:]
        dilation, valid = self._dilation, self._valid
        blocks = (len(x) // dilation - self._reach) // valid
        # With a dilation of d, every d-th step belongs to a sequence of its own.
        frames = x.as_strided(
            (_SIZE, blocks, dilation, channels),
            (dilation * channels, valid * dilation * channels, channels, 1),
        )
        spectra = (self._to @ frames.reshape(_SIZE, -1)).view(_SIZE, -1, channels)
        waves = self._back @ self._multiply(spectra).view(_SIZE, -1)
        return waves.view(valid, blocks, dilation, outputs).transpose(0, 1).reshape(-1, outputs)

    def _multiply(self, spectra: Tensor) -> Tensor:
        """Multiply each frequency by its matrix: (32, n, inputs) -> (32, n, outputs), real parts first."""
        real, imaginary = spectra[:_BINS], spectra[_BINS:]
        made = spectra.new_empty(_SIZE, spectra.shape[1], self._real.shape[2])
        torch.bmm(real, self._real, out=made[:_BINS])
        if self._constant is not None:
            made[0] += self._constant
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
