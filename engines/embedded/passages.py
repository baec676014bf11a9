"""Passages: short stretches of speech whose sounds, durations, pitch and loudness are fixed. Only the timbre varies.

A fit speaks the same passages again and again while it changes the acoustic half of the style and the deltas. All that
precedes the decoder stays as it is, so it is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engines.contract import Arrays
from engines.embedded import acoustic, fit_check
from engines.embedded.blocks import STYLE, adaptive_norms
from engines.embedded.deltas import OF_DECODER, OF_VOCODER
from engines.embedded.differentiable import DifferentiableVocoder, Resampler
from engines.embedded.mapper import ACOUSTIC, StyleMapper
from engines.embedded.vocoder import load_network
from engines.mel import mel_filters

_EDGE_FRAMES = 2  #: frames of silence that stay at the ends of a passage


@dataclass(frozen=True)
class Passage:
    """One stretch of speech; n frames of 25 ms."""

    text: Tensor  #: (1, 512, n)
    pitch: Tensor  #: (1, 1, 2n) Hz
    energy: Tensor  #: (1, 1, 2n)
    mean_style: Tensor  #: (128,) of the mean voice for a text of this length


class Studio:
    """The networks that speak a passage in a timbre, and those that hear it.

    A timbre is one row of numbers, all in standard deviations of the 54 stock voices: the acoustic half of the style by
    its principal axes, then the deltas of the decoder and of the vocoder, each by the spread that the stock voices give
    to that output. The spread follows from the principal axes that the mapper carries.
    """

    def __init__(self, mapper: StyleMapper, device: str = "cpu", bf16: bool = False) -> None:
        self._mapper = mapper
        self._device = device
        self._bf16 = bf16
        self._acoustic = acoustic.load(device)
        network = load_network().to(device)
        self._vocoder = DifferentiableVocoder(network, bf16)
        self._resample = Resampler(device)
        self._mel = self.tensor(mel_filters(fit_check.RATE, fit_check.FFT, fit_check.BANDS))
        self._axes = self.tensor(mapper.acoustic_axes)
        self._spread = torch.cat([_spread(part, self._axes) for part in (self._acoustic.decoder, network)])
        #: how many numbers of a timbre are the style's, the decoder's and the vocoder's
        self.sizes = len(self._axes), self._acoustic.decoder.deltas, network.deltas

    def tensor(self, array: np.ndarray) -> Tensor:
        """Return float32 numbers on the device."""
        return torch.tensor(np.asarray(array), dtype=torch.float32, device=self._device)

    def timbre(self, steered: Arrays) -> Tensor:
        """Return the timbre (sum(sizes),) of a voice without deltas."""
        offset = self.tensor(steered["style_offset"][ACOUSTIC])
        coordinates = self._axes @ offset / self._axes.square().sum(1)
        return F.pad(coordinates, (0, len(self._spread)))

    def fitted(self, steered: Arrays, timbre: Tensor) -> dict[str, np.ndarray]:
        """Return the arrays of a voice with this timbre. All else is the steered voice's."""
        coordinates, deltas = self._split(timbre)
        decoder, vocoder = np.split((deltas * self._spread).cpu().numpy().astype(np.float16), [self.sizes[1]])
        style = np.asarray(steered["style_offset"], np.float32).copy()
        style[ACOUSTIC] = (coordinates @ self._axes).cpu().numpy()
        return {**steered, "style_offset": style, OF_DECODER: decoder, OF_VOCODER: vocoder}

    @torch.no_grad()
    def passage(self, ids: list[int], voice: Arrays, language: str, frames: int) -> Passage:
        """Make a passage from the middle of a sentence, as the voice says it.

        Args:
            ids: phoneme ids of the sentence.
            voice: a steered voice.
            language: `en`, `zh` or `ja`.
            frames: length; all passages of one length cost the same. A shorter sentence is repeated.
        """
        style = torch.from_numpy(self._mapper.style(voice, len(ids), language))[None].to(self._device)
        log_pitch = torch.tensor([float(voice["log_f0"][0])], device=self._device)
        padded, lengths = acoustic.pad([ids], self._device)
        spoken = self._acoustic.prosody(padded, lengths, style[:, STYLE:], 1.0, log_pitch)
        before, after = int(spoken.durations[0, 0]), int(spoken.durations[0, -1])
        first = max(0, before - _EDGE_FRAMES)
        last = int(spoken.frames[0]) - max(0, after - _EDGE_FRAMES)
        first += max(0, last - first - frames) // 2
        which = (torch.arange(frames, device=self._device) % min(frames, last - first)) + first
        columns = torch.stack([2 * which, 2 * which + 1], 1).flatten()
        row = min(len(ids), len(self._mapper.mean_pack)) - 1
        return Passage(
            spoken.text[:, :, which],
            spoken.pitch[:, :, columns],
            spoken.energy[:, :, columns],
            torch.from_numpy(self._mapper.mean_pack[row, ACOUSTIC]).to(self._device),
        )

    def speak(self, passage: Passage, timbre: Tensor, seed: int = 0) -> Tensor:
        """Speak a passage: samples (600 n,) at 24 kHz, as the vocoder makes them. Gradients flow to the timbre."""
        coordinates, deltas = self._split(timbre)
        style = passage.mean_style + coordinates @ self._axes
        decoder, vocoder = (deltas * self._spread).split(self.sizes[1:])
        with torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=self._bf16):
            features = self._acoustic.decoder(
                passage.text, passage.pitch, passage.energy, torch.cat([style, decoder])[None], None, None
            )
        return self._vocoder(features[0].float(), passage.pitch[0, 0], torch.cat([style, vocoder]), seed)

    def at_16_khz(self, samples: Tensor) -> Tensor:
        """Resample what `speak` returns for the speaker encoder."""
        return self._resample(samples)

    def spectrum(self, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Measure speech at 16 kHz as fit_check.py does, with gradients.

        Returns:
            The spectral flatness, where 0 is white noise, and the power of each mel band (`fit_check.BANDS`,), in dB.
        """
        power, loud = _power(heard)
        power = power[loud]
        audible = power[:, fit_check.LOWEST_BIN :] + 1e-10
        flatness = 10 * (torch.log10(audible).mean(1) - torch.log10(audible.mean(1))).mean()
        return flatness, 10 * torch.log10(self._mel @ power.mean(0) + 1e-8)

    def periodicity(self, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Measure how harmonic speech at 16 kHz is, as fit_check.py does, with gradients.

        Returns:
            The power of what repeats against the rest, in dB, and the cepstral peak in nepers.
        """
        _, loud = _power(heard)
        frames = heard.unfold(0, fit_check.LONG, fit_check.HOP)
        frames = frames[loud[: len(frames)]]
        window = torch.hann_window(fit_check.LONG, periodic=False, device=heard.device)
        power = torch.fft.rfft((frames - frames.mean(1, keepdim=True)) * window, fit_check.LONG_FFT).abs().square()
        of_window = torch.fft.irfft(torch.fft.rfft(window, fit_check.LONG_FFT).abs().square())[fit_check.PERIODS]
        repeated = torch.fft.irfft(power)
        share = repeated[:, fit_check.PERIODS] / (repeated[:, :1] + 1e-12) * (window @ window) / of_window
        best = share.amax(1).clip(1e-3, 0.999)
        cepstra = torch.fft.irfft(torch.log(power + 1e-9))[:, fit_check.PERIODS]
        return (10 * torch.log10(best / (1 - best))).mean(), cepstra.amax(1).mean()

    def _split(self, timbre: Tensor) -> tuple[Tensor, Tensor]:
        coordinates, deltas = timbre.split([self.sizes[0], sum(self.sizes[1:])])
        return coordinates, deltas


def _power(heard: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power of each frame (frames, bins), and which frames are speech."""
    window = torch.hann_window(fit_check.FFT, periodic=False, device=heard.device)
    power = torch.fft.rfft(heard.unfold(0, fit_check.FFT, fit_check.HOP) * window).abs().square()
    energy_db = 10 * torch.log10(power.sum(1) + 1e-8)
    return power, energy_db > energy_db.max() - fit_check.LOUD_DB


def _spread(network: torch.nn.Module, axes: Tensor) -> Tensor:
    """Return the standard deviation of each output of the style layers over the stock voices, (D,) by slot."""
    return torch.cat([F.linear(axes, norm.fc.weight).square().sum(0).sqrt() for norm in adaptive_norms(network)])
