"""The vocoder behind the engine contract turns lists of mels into lists of audio, whole or as they grow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from engines.contract import Arrays, Mel, MelChunk
from engines.cosyvoice3 import hift, noise, recording
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.flow_batches import Limits, batches, shapes
from engines.cosyvoice3.guard import guarded
from speech.errors import InternalError, SpeechError

T = TypeVar("T")
LONGEST = 1_280  #: the most frames of mels whose shapes are recorded: 25 s
_log = logging.getLogger(__name__)


class CosyVoice3Vocoder:
    """An `engines.contract.StreamingVocoder` of 24 kHz.

    On a GPU parts of similar length are computed together, on a CPU one by one.

    Args:
        limits: limits of a batch on a GPU.
        tf32: see `launcher.Launcher`.
        longest: the most frames of mels whose shapes a GPU records before the first request.
        recording_s: the longest time for that.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        device: str = "cpu",
        threads: int = 1,
        limits: Limits = Limits(),
        tf32: bool = False,
        longest: int = LONGEST,
        recording_s: float = recording.SECONDS,
    ) -> None:
        torch.set_num_threads(threads)
        self._network = hift.load(directory, device)
        self._network.tf32 = tf32
        self._noise = noise.Excitation(directory.numbers)
        self._limits = Limits(rows=1) if device.startswith("cpu") else limits
        self._record(longest, recording_s)
        for frames in (100, 200):
            self._sounds([torch.zeros(80, frames)])

    @property
    def recordings(self) -> int:
        """Number of shapes recorded so far; 0 on a CPU."""
        return self._network.prepare().graphs.recordings

    @property
    def direct(self) -> int:
        """Number of calls so far, since loading, of shapes that are not recorded; 0 on a CPU."""
        return self._network.prepare().graphs.direct

    def _record(self, longest: int, seconds: float) -> None:
        launcher = self._network.prepare()
        if not launcher.bucketed:
            return
        works = [
            partial(self._network.warm_up, [shape], self._noise, (True, False))
            for shape in shapes(self._limits, longest)
        ]
        recording.record("vocoder", [launcher.graphs], works, seconds)

    def probe(self) -> np.ndarray:
        """Return the audio (n,) of 0.2 s of a silent mel."""
        return self._sounds([torch.zeros(80, 10)])[0]

    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray | SpeechError]:
        """Compute mono float32 (n,) within ±0.99 for each Mel: its parts, one after the other."""
        return _each(self._vocode, mels)

    def vocode_chunks(self, chunks: Sequence[tuple[MelChunk, int]]) -> list[np.ndarray | SpeechError]:
        """Compute the samples (n,) of each chunk's part after those given out already; n may be 0.

        The part is computed from its beginning each time, because pitch and source sum up over the whole. Samples given
        out before come out the same to 1e-7. The last eight frames of an unfinished part are held back.
        """
        return _each(self._vocode_chunks, chunks)

    def _vocode(self, mels: Sequence[Mel]) -> list[np.ndarray | SpeechError]:
        split = [guarded(_parts, mel.arrays) for mel in mels]
        sounds = iter(self._sounds([part for found in split if isinstance(found, list) for part in found]))
        return [
            found if isinstance(found, SpeechError) else np.concatenate([next(sounds) for _ in found])
            for found in split
        ]

    def _vocode_chunks(self, chunks: Sequence[tuple[MelChunk, int]]) -> list[np.ndarray | SpeechError]:
        found: list = [guarded(_part, chunk) for chunk, _ in chunks]
        for final in (True, False):
            members = [
                index
                for index, mel in enumerate(found)
                if isinstance(mel, torch.Tensor) and chunks[index][0].final is final
            ]
            for index, sound in zip(members, self._sounds([found[index] for index in members], final), strict=True):
                found[index] = guarded(_behind, sound, chunks[index][1])
        return found

    def _sounds(self, mels: list[torch.Tensor], final: bool = True) -> list[np.ndarray]:
        sounds: list[np.ndarray] = [np.zeros(0, np.float32)] * len(mels)
        least = 1 if final else self._network.held_back + 1
        long = [index for index, mel in enumerate(mels) if mel.shape[1] >= least]
        started = [
            (members, self._network.launch([mels[long[member]] for member in members], self._noise, final))
            for members in batches([mels[index].shape[1] for index in long], self._limits)
        ]
        for members, pending in started:
            for member, audio in zip(members, pending.result(), strict=True):
                sounds[long[member]] = audio.numpy()
        return sounds


def _each(
    work: Callable[[Sequence[T]], list[np.ndarray | SpeechError]], items: Sequence[T]
) -> list[np.ndarray | SpeechError]:
    """Compute all items together; if that fails, one by one, so that only the bad one fails."""
    try:
        return work(items)
    except Exception:
        if len(items) == 1:
            raise
        _log.error("a batch of %d could not be vocoded; trying its members one by one", len(items))
        return [guarded(lambda item: work([item])[0], item) for item in items]


def _parts(arrays: Arrays) -> list[torch.Tensor]:
    whole, frames = torch.tensor(arrays["mel"]), arrays["parts"].tolist()
    if whole.ndim != 2 or whole.shape[0] != 80 or sum(frames) != whole.shape[1] or min(frames) < 1:
        raise InternalError("The acoustic features do not have the form that the vocoder reads.")
    return list(whole.split(frames, dim=1))


def _part(chunk: MelChunk) -> torch.Tensor:
    parts = _parts(chunk.arrays)
    if len(parts) != 1:
        raise InternalError("A chunk of acoustic features must be of one part of the text.")
    return parts[0]


def _behind(sound: np.ndarray, given: int) -> np.ndarray:
    if not 0 <= given <= len(sound):
        raise InternalError("More of this part of the text is said to have been given out than there is of it.")
    return sound[given:]
