"""The two models of the front end that are published as ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from engines.contract import WeightsError
from engines.cosyvoice3.directory import CAMPPLUS, SPEECH_TOKENIZER, ModelDirectory

_GPU = "CUDAExecutionProvider"


class SpeechTokenizer:
    """Whisper mel -> speech tokens, 25 a second. One clip at a time: the published export has no batch axis."""

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1) -> None:
        self._session = _session(directory / SPEECH_TOKENIZER, device, threads)
        self._mel, self._length = _inputs(self._session, 2, directory / SPEECH_TOKENIZER)

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """(128, frames) float32 -> (frames / 4,) int32."""
        length = np.array([mel.shape[1]], np.int32)
        return self._session.run(None, {self._mel: mel[None], self._length: length})[0].reshape(-1).astype(np.int32)


class SpeakerEmbedder:
    """CAM++ (H. Wang et al., 2023): filter bank -> the speaker's embedding.

    One clip at a time: it pools over time without a mask, so that what pads a clip would become a part of the voice.
    """

    def __init__(self, directory: ModelDirectory, threads: int = 1) -> None:
        # On the CPU even where there is a GPU, as officially: 28 MB are quick there.
        self._session = _session(directory / CAMPPLUS, "cpu", threads)
        (self._fbank,) = _inputs(self._session, 1, directory / CAMPPLUS)

    def __call__(self, fbank: np.ndarray) -> np.ndarray:
        """(frames, 80) float32 -> (192,) float32."""
        return self._session.run(None, {self._fbank: fbank[None]})[0].reshape(-1)


def _session(path: Path, device: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    gpu = [_GPU] if device.startswith("cuda") and _GPU in onnxruntime.get_available_providers() else []
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*gpu, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise WeightsError(
            f"{path} can't be read as an ONNX model ({type(error).__name__}). It is missing, cut off "
            "or of another format: fetch the file again."
        ) from error


def _inputs(session: onnxruntime.InferenceSession, count: int, path: Path) -> list[str]:
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != count:
        raise WeightsError(
            f"{path} takes {len(names)} inputs ({', '.join(names)}) and should take {count}. Fetch the "
            "file of the same release as the others."
        )
    return names
