"""Draws the fixed random numbers of flow and vocoder, which belong to the model and are in no state dict.

The official code draws them when its networks are constructed: first the flow's noise from seed 0, then the initial
weights of layers, then the vocoder's noise. To give the same audio, the same draws are made here in the same order,
from a generator of our own. Torch's CPU generator gives the same numbers on every machine.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from engines.cosyvoice3.numbers import Numbers

MEL_FRAMES = 15_000  #: 300 s
_MELS = 80
_SAMPLES_PER_FRAME = 480
_lock = threading.Lock()
_flow: Tensor | None = None


def flow(frames: int) -> Tensor:
    """Return the flow's noise (80, frames) float32, the beginning of 300 s. It must not be written to."""
    global _flow
    with _lock:
        if _flow is None:
            _flow = torch.randn(1, _MELS, MEL_FRAMES, generator=torch.Generator().manual_seed(0))[0]
        return _flow[:, :frames]


class Excitation:
    """The vocoder's noise, between 0 and 1 for each sample and harmonic, made as far as it is needed.

    The whole would be 300 s or 259 MB. It is kept up to the longest audio so far, 0.9 MB for each second; on a GPU up
    to twice that length, so that it is seldom made again.
    """

    _BLOCK = 24_000 * 5

    def __init__(self, numbers: Numbers) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._harmonics = numbers.hift.nb_harmonics + 1
        torch.randn(1, _MELS, MEL_FRAMES, generator=self._generator)
        _skip_initialisation(numbers, self._generator)
        # The official code draws an initial phase for each harmonic, which has no effect (see excitation.py).
        self.phase = torch.rand(1, self._harmonics, generator=self._generator)
        self.phase[:, 0] = 0
        self._samples = torch.zeros(0, self._harmonics)
        self._resident: dict[torch.device, Tensor] = {}

    def __call__(self, samples: int) -> Tensor:
        """Return the beginning of the noise, (samples, harmonics) float32. It must not be written to."""
        if samples > len(self._samples):
            more = -(-(samples - len(self._samples)) // self._BLOCK) * self._BLOCK
            drawn = torch.rand(more, self._harmonics, generator=self._generator)
            self._samples = torch.cat((self._samples, drawn))
        return self._samples[:samples]

    def on(self, device: torch.device, samples: int) -> Tensor:
        """Return the beginning of the noise on a device. It is uploaded again only if more is needed than before.

        Earlier results stay valid, and are the beginning of later ones.
        """
        if device.type == "cpu":
            return self(samples)
        table = self._resident.get(device)
        if table is None or len(table) < samples:
            length = max(samples, 0 if table is None else min(2 * len(table), MEL_FRAMES * _SAMPLES_PER_FRAME))
            table = self._resident[device] = self(length).to(device)
        return table[:samples]


def _skip_initialisation(numbers: Numbers, generator: torch.Generator) -> None:
    """Draw what torch's default initialisation draws for the layers built between the two noises."""
    flow, f0 = numbers.flow, numbers.hift.f0_predictor
    torch.randn(flow.vocab_size, flow.input_size, generator=generator)
    _skip_layer((flow.output_size, flow.spk_embed_dim), generator)
    _skip_layer((f0.cond_channels, f0.in_channels, 4), generator)
    for _ in range(4):
        _skip_layer((f0.cond_channels, f0.cond_channels, 3), generator)
    _skip_layer((f0.num_class, f0.cond_channels), generator)


def _skip_layer(weight: tuple[int, ...], generator: torch.Generator) -> None:
    """Draw a linear layer's or convolution's weight, then its bias, both uniformly."""
    torch.rand(weight, generator=generator)
    torch.rand(weight[0], generator=generator)
