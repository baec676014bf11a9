"""Runs the two models of the front end that are published as ONNX files, with onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from engines.contract import WeightsError
from engines.cosyvoice3.directory import CAMPPLUS, SPEECH_TOKENIZER, ModelDirectory

_GPU = "CUDAExecutionProvider"
_log = logging.getLogger(__name__)


class _Model:
    """An ONNX file and its session on a device. It runs arrays of equal shape together if the file allows it.

    Arrays of different length can't share a call, because padding would change their results: CAM++ pools over time
    without a mask, so the padding of a clip would become a part of the voice.
    """

    def __init__(self, path: Path, inputs: int, device: str, threads: int) -> None:
        self._session = _session(path, device, threads)
        self._names = _inputs(self._session, inputs, path)
        # A fixed number of clips is 1; a free number has a name.
        self._together = all(not isinstance(entry.shape[0], int) for entry in self._session.get_inputs())

    @property
    def providers(self) -> list[str]:
        """onnxruntime's providers of the session, the preferred one first."""
        return self._session.get_providers()

    def run(self, arrays: Sequence[np.ndarray], lengths: Sequence[int] | None = None) -> list[np.ndarray]:
        """Run the model on each array (n, …); `lengths`, if given, are its second input."""
        made: list[np.ndarray] = [np.zeros(0)] * len(arrays)
        for members in _alike(arrays, self._together):
            values: list[np.ndarray] = [np.stack([arrays[member] for member in members])]
            if lengths is not None:
                values.append(np.array([lengths[member] for member in members], np.int32))
            outputs = self._session.run(None, dict(zip(self._names, values, strict=True)))[0]
            for member, output in zip(members, np.reshape(outputs, (len(members), -1)), strict=True):
                made[member] = output
        return made


class SpeechTokenizer:
    """The model from Whisper mel to speech tokens, 25 a second. Clips of equal length share a call if the file can."""

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1) -> None:
        self._model = _Model(directory / SPEECH_TOKENIZER, 2, device, threads)

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """Turn a mel (128, frames) float32 into tokens (frames / 4,) int32."""
        return self.several([mel])[0]

    def several(self, mels: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn each mel into tokens, as a call with it alone does."""
        made = self._model.run(mels, [mel.shape[1] for mel in mels])
        return [tokens.astype(np.int32) for tokens in made]


class SpeakerEmbedder:
    """CAM++ (H. Wang et al., 2023), from filter bank to the speaker's embedding. Clips of equal length share a call."""

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1) -> None:
        self._model = _Model(directory / CAMPPLUS, 1, device, threads)

    def __call__(self, fbank: np.ndarray) -> np.ndarray:
        """Turn a filter bank (frames, 80) float32 into an embedding (192,) float32."""
        return self.several([fbank])[0]

    def several(self, fbanks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn each filter bank into an embedding, as a call with it alone does."""
        return self._model.run(fbanks)


def _alike(arrays: Sequence[np.ndarray], together: bool) -> list[list[int]]:
    """Group the indices of arrays of equal shape; each list is a call."""
    if not together:
        return [[index] for index in range(len(arrays))]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, array in enumerate(arrays):
        groups.setdefault(array.shape, []).append(index)
    return list(groups.values())


def _session(path: Path, device: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=_providers(device))
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise WeightsError(
            f"{path} can't be read as an ONNX model ({type(error).__name__}). It is missing, cut off "
            "or of another format: fetch the file again."
        ) from error
    if device.startswith("cuda") and session.get_providers()[0] != _GPU:
        _log.warning(
            "%s runs on the CPU, which makes a new voice slower: onnxruntime has no %s here. Install onnxruntime-gpu "
            "in place of onnxruntime, built for this CUDA.",
            path.name,
            _GPU,
        )
    return session


def _providers(device: str) -> list:
    """List onnxruntime's providers for a torch device, the CPU last."""
    if not device.startswith("cuda") or _GPU not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    settings = {
        "device_id": device.partition(":")[2] or "0",
        # Each clip has its own length, and the default tries every algorithm for every length.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",  # on by default; near a boundary it makes another token
    }
    return [(_GPU, settings), "CPUExecutionProvider"]


def _inputs(session: onnxruntime.InferenceSession, count: int, path: Path) -> list[str]:
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != count:
        raise WeightsError(
            f"{path} takes {len(names)} inputs ({', '.join(names)}) and should take {count}. Fetch the "
            "file of the same release as the others."
        )
    return names
