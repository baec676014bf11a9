"""A watermark in the sound itself: Perth's network (Resemble AI, MIT), with weights from the package `resemble-perth`.

    watermark = Watermark("cpu")
    marked = watermark.put(samples, 24_000)
    watermark.find(marked, 24_000)      # 0.0 … 1.0

It says one bit: this is synthetic. Its encoder looks at the spectrum below 2 kHz in frames of 64 ms, 10 ms apart, and
returns a gain for each bin; the samples change by what these gains add. Its decoder looks at the same spectrum.

Three things differ from the package's own code. The frames are cut at the audio's own rate, where their bins lie at the
same frequencies (within 0.02 % at 44.1 kHz), so nothing is resampled. What is added fades at either edge, so that the
chunks of a stream fit together. And nothing but torch is imported: the package itself would bring torchaudio, librosa
and pyrubberband.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.embedded import packages

PACKAGE = "resemble-perth"
INSTALL = "uv pip install --no-deps -r requirements-watermark.txt"
_FILE = "perth/perth_net/pretrained/implicit/perth_net_250000.pth.tar"
_SHA256 = "a15bce457ebc53ce5e6c9c3f11df78cf7ee2bf9cdab0a798902135b4c4027670"

_FRAME_S, _HOP_S = 0.064, 0.01
_TRAINED_FRAME = 2048  #: samples of a frame at the 32 kHz of the training: magnitudes are scaled to it
_BINS = 128  #: of 15.625 Hz: 2 kHz
_HIDDEN = 256
_FLOOR_DB, _HEADROOM_DB = -180.0, 15.0
_SPAN_DB = _HEADROOM_DB - _FLOOR_DB
_SILENT = 0.05  #: a frame below this share of the loudest one's summed levels carries nothing
_FADE_S = 0.01
#: With all of it DNSMOS falls by 0.057, with 0.9 by 0.046; with 0.8 Opus at 16 kbit/s hides it now and then.
STRENGTH = 0.9
_SPEEDS = {"slow_layers": 1.25, "normal_layers": 1.0, "fast_layers": 0.75}  #: of the decoder's three views


class Watermark:
    """Puts the watermark into audio, and finds it there.

    Args:
        device: torch's name of the device to compute on.
        weights: the checkpoint; None takes the one of the installed package.
        strength: the factor on what the encoder asks for; 1.0 is as the network was trained.

    Raises:
        WeightsError: the package is not installed, or its file is another one.
    """

    def __init__(self, device: str = "cpu", weights: Path | None = None, strength: float = STRENGTH) -> None:
        self._strength = strength
        path = weights or packages.find(PACKAGE, _FILE, _SHA256, INSTALL)
        state = torch.load(path, map_location="cpu", weights_only=True)["model"]
        self._device = torch.device(device)
        self._encoder = _layers(_BINS)
        self._decoders = {name: _layers(2) for name in _SPEEDS}
        _load(self._encoder, state, "encoder.layers")
        for name, layers in self._decoders.items():
            _load(layers, state, f"decoder.{name}")
        for layers in (self._encoder, *self._decoders.values()):
            layers.to(self._device).eval()

    @torch.inference_mode()
    def put(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """Return mono float32 `samples` (n,) at `rate` Hz with the watermark; less than a frame stays as it is."""
        frame, hop = _frame(rate)
        fade = round(_FADE_S * rate)
        if len(samples) < frame:
            return samples
        spectrum, level = self._spectrum(samples, frame, hop)
        residual = self._encoder(level[None, :_BINS])[0] * (_sounding(level) * self._strength)
        added = torch.zeros_like(spectrum)
        # A residual is in units of the normalised level, and so a gain in dB.
        added[:_BINS] = spectrum[:_BINS] * (torch.pow(10.0, residual * (_SPAN_DB / 20)) - 1)
        wave = torch.istft(added, frame, hop, frame, self._window(frame), length=len(samples))
        ramp = torch.linspace(0.0, 1.0, fade + 2, device=self._device)[1:-1]
        wave[:fade] *= ramp
        wave[len(wave) - fade :] *= ramp.flip(0)
        marked: np.ndarray = samples + wave.cpu().numpy()
        return marked

    @torch.inference_mode()
    def find(self, samples: np.ndarray, rate: int) -> float:
        """Return how sure it is, 0 … 1, that mono float32 `samples` (n,) at `rate` Hz hold the watermark."""
        frame, hop = _frame(rate)
        if len(samples) < frame or frame < 2 * _BINS:  # too short, or recorded without what lies below 2 kHz
            return 0.0
        _, level = self._spectrum(samples, frame, hop)
        mask, view = _sounding(level)[None, None], level[None, :_BINS]
        count = view.shape[2]
        votes, weights = [], []
        for name, layers in self._decoders.items():
            size = int(count * _SPEEDS[name])
            heard = (
                view if size == count else functional.interpolate(view, size=size, mode="linear", align_corners=True)
            )
            sounding = functional.interpolate(mask, size=size, mode="nearest")
            weight, vote = ((layers(heard) * sounding).sum(2) / sounding.sum(2)).unbind(1)
            votes.append(vote)
            weights.append(weight)
        sure = (torch.cat(votes) * torch.softmax(torch.cat(weights), 0)).sum().clamp(0.0, 1.0)
        return float(sure.nan_to_num(0.0))

    def _spectrum(self, samples: np.ndarray, frame: int, hop: int) -> tuple[Tensor, Tensor]:
        """Return the complex spectrum (bins, frames), and its normalised level as the network was trained on it."""
        wave = torch.from_numpy(np.ascontiguousarray(samples, np.float32)).to(self._device)
        spectrum = torch.stft(wave, frame, hop, frame, self._window(frame), return_complex=True)
        magnitude = (spectrum.abs() * (_TRAINED_FRAME / frame)).clamp_min(10 ** (_FLOOR_DB / 20))
        return spectrum, (20 * torch.log10(magnitude) - _FLOOR_DB) / _SPAN_DB

    def _window(self, frame: int) -> Tensor:
        return torch.hann_window(frame, device=self._device)


def _frame(rate: int) -> tuple[int, int]:
    return round(_FRAME_S * rate), round(_HOP_S * rate)


def _sounding(level: Tensor) -> Tensor:
    """Return 1.0 for each frame that is more than digital silence, else 0.0."""
    summed = level.sum(0)
    return (summed > summed.max() * _SILENT).float()


def _layers(outputs: int) -> nn.Sequential:
    convolutions: list[nn.Module] = [nn.Conv1d(_BINS, _HIDDEN, 1), nn.LeakyReLU()]
    for _ in range(5):
        convolutions += [nn.Conv1d(_HIDDEN, _HIDDEN, 7, padding=3), nn.LeakyReLU()]
    return nn.Sequential(*convolutions, nn.Conv1d(_HIDDEN, outputs, 1))


def _load(layers: nn.Sequential, state: dict[str, Tensor], name: str) -> None:
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv1d)]
    for index, layer in enumerate(convolutions):
        layer.load_state_dict({part: state[f"{name}.{index}.conv.{part}"] for part in ("weight", "bias")})
