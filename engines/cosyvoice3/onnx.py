"""Runs the two models of the front end that are published as ONNX files: on a GPU with torch, else with onnxruntime."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from engines.contract import WeightsError
from engines.cosyvoice3.directory import CAMPPLUS, SPEECH_TOKENIZER, ModelDirectory
from engines.cosyvoice3.flow_batches import Limits, batches
from engines.cosyvoice3.onnx_graph import OnnxGraph, Unsupported

_GPU = "CUDAExecutionProvider"
#: of the runs of padded clips: frames of 10 ms
_LIMITS = Limits(rows=8, frames=24_000, gap=3_000, padding=0.4)
_log = logging.getLogger(__name__)

Arrays = list[np.ndarray]
Same = Callable[[np.ndarray, np.ndarray], bool]


class _Session:
    """An ONNX file in onnxruntime. It runs arrays of equal shape together if the file allows it."""

    pads = False

    def __init__(self, path: Path, inputs: int, device: str, threads: int) -> None:
        self.session = _session(path, device, threads)
        self._names = _inputs(self.session, inputs, path)
        # A fixed number of clips is 1; a free number has a name.
        self.stacks = all(not isinstance(entry.shape[0], int) for entry in self.session.get_inputs())

    def start(self, *inputs: np.ndarray) -> Callable[[], np.ndarray]:
        made = self.session.run(None, dict(zip(self._names, inputs, strict=True)))[0]
        return lambda: np.asarray(made)


class _Torch:
    """An ONNX file in torch, compared with onnxruntime before it is used.

    Attributes:
        stacks: True: clips of equal length share a run, and each gets what it gets alone.
        pads: True: clips of any length share a run, zeros filled up at their ends, and each gets what it gets alone.

    Raises:
        Unsupported: torch can't compute the file, or computes something else than onnxruntime.
    """

    def __init__(
        self, path: Path, session: _Session, device: str, samples: Sequence[np.ndarray], lengths: bool, same: Same
    ) -> None:
        self._graph = OnnxGraph(path, device)
        self.stacks = self.pads = False
        alone = []
        for sample in samples:
            values = _values([sample], lengths)
            try:
                made = self.start(*values)()
            except Exception as error:  # an operator may refuse a setting in its own way
                raise Unsupported(f"{type(error).__name__}: {error}") from error
            if not same(made, session.start(*values)()):
                raise Unsupported("its result differs from onnxruntime's")
            alone.append(made)
        self.stacks = self._shared([*samples[:1], -samples[0]], alone[:1], lengths, same)
        counted = lengths and all(
            _count(one) == _tokens(each.shape[-1]) for one, each in zip(alone, samples, strict=True)
        )
        self.pads = counted and self.stacks and self._shared(samples, alone, lengths, same)

    def start(self, *inputs: np.ndarray) -> Callable[[], np.ndarray]:
        """Start a run; the result is there when the function is called."""
        made = self._graph(*inputs)[0]
        return lambda: made.cpu().numpy()

    def _shared(self, samples: Sequence[np.ndarray], alone: Arrays, lengths: bool, same: Same) -> bool:
        """Tell if the samples, or the first of them, get in one run what they get alone."""
        try:
            together = self.start(*_values(samples, lengths))()
        except Exception:  # a graph for one clip may refuse several in any way
            return False
        return len(together) == len(samples) and all(
            same(row.reshape(-1)[: _count(one)], one.reshape(-1)) for row, one in zip(together, alone, strict=False)
        )


class _Model:
    """An ONNX file that runs clips on a device, as many together as give each what it gets alone.

    Args:
        path: the file.
        device: a torch device.
        threads: of a CPU.
        samples: clips (…, frames) to compare torch with onnxruntime on; they differ in length. Without them, and on a
            CPU, onnxruntime computes.
        lengths: True: the second input is each clip's number of frames.
        same: compares two results.
    """

    def __init__(
        self, path: Path, device: str, threads: int, samples: Sequence[np.ndarray], lengths: bool, same: Same
    ) -> None:
        self._lengths = lengths
        inputs = 2 if lengths else 1
        self.runner: _Session | _Torch
        if _is_cpu(device) or not samples:
            self.runner = _Session(path, inputs, device, threads)
            return
        try:
            self.runner = _Torch(path, _Session(path, inputs, "cpu", threads), device, samples, lengths, same)
        except Unsupported as error:
            _log.warning("%s can't run in torch (%s): onnxruntime runs it", path.name, error)
            self.runner = _Session(path, inputs, device, threads)

    def run(self, arrays: Sequence[np.ndarray]) -> Arrays:
        """Run the model on each array (…, frames), one wait for all; returns its own numbers of each."""
        started = [
            (members, self.runner.start(*_values([arrays[member] for member in members], self._lengths)))
            for members in self._shares(arrays)
        ]
        made: Arrays = [np.zeros(0)] * len(arrays)
        for members, result in started:
            for member, row in zip(members, np.reshape(result(), (len(members), -1)), strict=True):
                made[member] = row[: _tokens(arrays[member].shape[-1])] if self.runner.pads else row
        return made

    def _shares(self, arrays: Sequence[np.ndarray]) -> list[list[int]]:
        """Group the indices of the arrays; each list is a run."""
        if self.runner.pads:
            return batches([array.shape[-1] for array in arrays], _LIMITS)
        if not self.runner.stacks:
            return [[index] for index in range(len(arrays))]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, array in enumerate(arrays):
            groups.setdefault(array.shape, []).append(index)
        return list(groups.values())


class SpeechTokenizer:
    """The model from Whisper mel to speech tokens, 25 a second.

    Args:
        directory: the model directory.
        device: a torch device.
        threads: of a CPU.
        samples: mels of different lengths; see `_Model`.
    """

    def __init__(
        self, directory: ModelDirectory, device: str = "cpu", threads: int = 1, samples: Sequence[np.ndarray] = ()
    ) -> None:
        self.model = _Model(directory / SPEECH_TOKENIZER, device, threads, samples, True, _same_tokens)

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """Turn a mel (128, frames) float32 into tokens (frames / 4,) int32."""
        return self.several([mel])[0]

    def several(self, mels: Sequence[np.ndarray]) -> Arrays:
        """Turn each mel into tokens, as a call with it alone does."""
        return [tokens.astype(np.int32) for tokens in self.model.run(mels)]


class SpeakerEmbedder:
    """CAM++ (H. Wang et al., 2023), from filter bank to the speaker's embedding.

    Clips of different length never share a run: CAM++ pools over time without a mask, so the padding of a clip would
    become a part of the voice. The arguments are those of `SpeechTokenizer`, with filter banks as samples.
    """

    def __init__(
        self, directory: ModelDirectory, device: str = "cpu", threads: int = 1, samples: Sequence[np.ndarray] = ()
    ) -> None:
        self.model = _Model(directory / CAMPPLUS, device, threads, samples, False, _same_voice)

    def __call__(self, fbank: np.ndarray) -> np.ndarray:
        """Turn a filter bank (frames, 80) float32 into an embedding (192,) float32."""
        return self.several([fbank])[0]

    def several(self, fbanks: Sequence[np.ndarray]) -> Arrays:
        """Turn each filter bank into an embedding, as a call with it alone does."""
        return self.model.run(fbanks)


def _values(arrays: Sequence[np.ndarray], lengths: bool) -> Arrays:
    """Make the inputs of a run. Shorter arrays are filled up with zeros at the end of their last axis."""
    longest = max(array.shape[-1] for array in arrays)
    filled = [
        np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, longest - array.shape[-1])])
        if array.shape[-1] < longest
        else array
        for array in arrays
    ]
    return [np.stack(filled), *([np.array([array.shape[-1] for array in arrays], np.int32)] if lengths else [])]


def _is_cpu(device: str) -> bool:
    return device.startswith("cpu")


def _count(made: np.ndarray) -> int:
    return made.reshape(-1).shape[0]


def _tokens(frames: int) -> int:
    """Return the number of tokens of a clip. `_Torch` compares it with what the model gives."""
    return math.ceil(frames / 4)


def _same_tokens(one: np.ndarray, other: np.ndarray) -> bool:
    """True if few tokens differ: near a boundary, another order of sums makes another token."""
    return one.shape == other.shape and bool((one != other).mean() <= 0.02)


def _same_voice(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= 1e-3 * np.abs(other).max())


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
