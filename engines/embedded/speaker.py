"""Turns a reference clip into a voice: the GE2E d-vector, and the clip's pitch.

The network is the speaker encoder of L. Wan et al., "Generalized End-to-End Loss for Speaker Verification" (ICASSP
2018): three LSTM layers over 40 mel bands and one projection, with the weights that the package Resemblyzer 0.1.4
carries (Apache-2.0, resemble-ai/Resemblyzer). Only its weight file is used. A clip's d-vector is the mean over windows
of 1.6 s; the windows of all clips of a batch go through the LSTM in one call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from engines.contract import Reference, Voice
from engines.embedded import campplus
from engines.embedded.mapper import StyleMapper
from engines.embedded.packages import find
from engines.embedded.pitch import median_log_f0
from engines.mel import mel_filters
from speech.errors import InvalidInput, SpeechError

RATE = 16_000  #: Hz of the clip's view that the network reads
EMBEDDING_SIZE = 256
_WEIGHTS = (
    "Resemblyzer",
    "resemblyzer/pretrained.pt",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
)
_FFT, _HOP, _BANDS = 400, 160, 40  # 25 ms frames every 10 ms
_WINDOW, _STEP = 160, 50  # frames: windows of 1.6 s, as the network was trained on, every 0.5 s
_LEVEL_DBFS = -26.0  # every clip is scaled to this level: to the network loudness is a part of the speaker
_PAUSE_DB = 35.0  # a stretch this far below the loud parts of the clip is a pause


class DVectorNetwork(nn.Module):
    """The speaker encoder: 16 kHz samples -> d-vector of unit length, 256 numbers >= 0."""

    hann: torch.Tensor
    filters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BANDS, EMBEDDING_SIZE, num_layers=3, batch_first=True)
        self.linear = nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)
        self.register_buffer("filters", torch.from_numpy(mel_filters(RATE, _FFT, _BANDS)), persistent=False)
        self.register_buffer("hann", torch.hann_window(_FFT), persistent=False)

    def forward(self, clips: Sequence[np.ndarray]) -> torch.Tensor:
        """Compute the d-vectors (len(clips), 256) of clips, each float32 (n,) without pauses."""
        tensors = [torch.from_numpy(np.ascontiguousarray(clip)).to(self.hann.device) for clip in clips]
        windows = [self._windows(samples) for samples in tensors]
        embedded = self._embed(torch.cat(windows))
        means = [part.mean(dim=0) for part in embedded.split([len(part) for part in windows])]
        return nn.functional.normalize(torch.stack(means), dim=1)

    def embed(self, samples: torch.Tensor) -> torch.Tensor:
        """Compute the d-vector (256,) of samples (n,) at 16 kHz without pauses. Gradients flow through it."""
        return nn.functional.normalize(self._embed(self._windows(samples)).mean(dim=0), dim=0)

    def _embed(self, windows: torch.Tensor) -> torch.Tensor:
        """Embed mel energies: (windows, 160, 40) -> (windows, 256)."""
        _, (hidden, _) = self.lstm(windows)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)

    def _windows(self, samples: torch.Tensor) -> torch.Tensor:
        """Cut samples (n,) into overlapping windows (windows, 160, 40) of mel power."""
        level = samples.square().mean().sqrt().clamp(min=1e-6)
        samples = samples * (10 ** (_LEVEL_DBFS / 20) / level)
        spectrum = torch.stft(samples, _FFT, _HOP, window=self.hann, pad_mode="constant", return_complex=True)
        mel = (self.filters @ spectrum.abs().square()).T
        if len(mel) < _WINDOW:  # barely more than a second of speech: it is repeated until a window is full
            mel = mel.repeat(-(-_WINDOW // len(mel)), 1)[:_WINDOW]
        starts = list(range(0, len(mel) - _WINDOW + 1, _STEP))
        if starts[-1] + _WINDOW < len(mel):
            starts.append(len(mel) - _WINDOW)
        return torch.stack([mel[start : start + _WINDOW] for start in starts])


class SpeakerEncoder:
    """An `engines.contract.SpeakerEncoder`. It runs the network once at start, so that the first request is fast.

    Args:
        device: torch device of the network.
        threads: torch threads of this process.

    Raises:
        WeightsError: the network's weights or the mapper's data are missing or damaged.
    """

    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._device = device
        self._network = load_network(device)
        self._for_fits: campplus.CampplusNetwork | None = None
        self._mapper = StyleMapper.load()
        with torch.inference_mode():
            self._network([np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)])

    @torch.inference_mode()
    def probe(self) -> np.ndarray:
        """Return the d-vector (256,) of 0.1 s of noise."""
        return self._network([np.random.default_rng(0).normal(0, 0.1, RATE // 10).astype(np.float32)]).cpu().numpy()[0]

    def encode(self, references: Sequence[Reference]) -> list[Voice | SpeechError]:
        """Return a Voice for each clip, or InvalidInput in its place if the clip holds no voice.

        A Voice's arrays are float32: `style_offset` (256,), `log_f0` (1,) ln of Hz, and `dvector` (256,). Where the
        reference is `for_fit`, also `campplus` (192,). The network for that is loaded when it is first needed.
        """
        clips = [np.asarray(reference.views[RATE], dtype=np.float32) for reference in references]
        pitches = [median_log_f0(clip) for clip in clips]
        voiced = {index: pitch for index, pitch in enumerate(pitches) if pitch is not None}
        answers: list[Voice | SpeechError] = [_no_voice() for _ in clips]
        if not voiced:
            return answers
        with torch.inference_mode():
            dvectors = self._network([without_pauses(clips[index]) for index in voiced]).cpu().numpy()
        for (index, pitch), dvector in zip(voiced.items(), dvectors, strict=True):
            arrays = {
                "style_offset": self._mapper.offset(dvector, pitch),
                "log_f0": np.array([pitch], dtype=np.float32),
                "dvector": dvector,
            }
            if references[index].for_fit:
                arrays[campplus.TARGET] = self._campplus().of_clip(without_pauses(clips[index]))
            answers[index] = Voice(arrays)
        return answers

    def _campplus(self) -> campplus.CampplusNetwork:
        if self._for_fits is None:
            self._for_fits = campplus.load_network(self._device)
        return self._for_fits


def load_network(device: str = "cpu") -> DVectorNetwork:
    """Load the network with its weights. Raises WeightsError if they are missing or damaged."""
    state = torch.load(find(*_WEIGHTS), map_location="cpu", weights_only=True)["model_state"]
    network = DVectorNetwork()
    # The file also holds two scalars of the training loss, which the network does not use.
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("similarity_")})
    return network.eval().to(device)


def without_pauses(samples: np.ndarray) -> np.ndarray:
    """Cut pauses out of 16 kHz samples (n,). 60 ms around speech stay, and at least one frame is always left."""
    size = RATE // 50
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    energy = np.convolve((frames.astype(np.float64) ** 2).mean(axis=1), np.full(7, 1 / 7), mode="same") + 1e-12
    speech = 10 * np.log10(energy / np.percentile(energy, 95)) > -_PAUSE_DB
    kept = np.convolve(speech, np.ones(7), mode="same") > 0.5
    return frames[kept].reshape(-1)


def _no_voice() -> InvalidInput:
    return InvalidInput(
        "No voice was found in the reference clip: nothing in it has a steady pitch. Use a recording "
        "of one person speaking aloud, without music.",
        param="prompt_audio",
        code="no_voice",
    )
