"""Describes a model directory of Fun-CosyVoice3: its files, the missing ones, and their place of publication.

Nothing is ever downloaded. This module imports neither torch nor onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from engines.contract import WeightsError
from engines.cosyvoice3 import numbers

PUBLISHED = (
    "The weights are published by their authors (Apache-2.0) in the model repository "
    "FunAudioLLM/Fun-CosyVoice3-0.5B-2512, on Hugging Face and on ModelScope. Fetch that repository whole and "
    "name its folder as model_dir; this program downloads nothing."
)

YAML = numbers.FILE
LLM, FLOW, HIFT = "llm.pt", "flow.pt", "hift.pt"
#: Other weights of the language model, published beside `llm.pt`: trained further with reinforcement learning.
LLM_RL = "llm.rl.pt"
SPEAKERS = "spk2info.pt"  #: voices that were registered with the official code; optional
CAMPPLUS, SPEECH_TOKENIZER = "campplus.onnx", "speech_tokenizer_v3.onnx"
QWEN = "CosyVoice-BlankEN"
QWEN_CONFIG, VOCABULARY, MERGES = f"{QWEN}/config.json", f"{QWEN}/vocab.json", f"{QWEN}/merges.txt"


@dataclass(frozen=True)
class File:
    """A file that the engine needs. `published_mb` is the approximate size of the official one in MB."""

    name: str
    published_mb: float
    use: str


FILES = (
    File(YAML, 0.01, "sizes and settings"),
    File(LLM, 2024, "language model: text to speech tokens"),
    File(FLOW, 1330, "flow matching: speech tokens to mel"),
    File(HIFT, 83, "vocoder: mel to audio"),
    File(CAMPPLUS, 28, "speaker embedding"),
    File(SPEECH_TOKENIZER, 968, "reference clip to speech tokens"),
    File(QWEN_CONFIG, 0.001, "sizes of the language model"),
    File(VOCABULARY, 2.8, "text tokenizer"),
    File(MERGES, 1.7, "text tokenizer"),
)
_SAMPLE = 1 << 16  #: bytes hashed at either end of a file, enough to tell two checkpoints apart


class ModelDirectory:
    """Paths and numbers of a model directory.

    Args:
        path: the folder that holds `cosyvoice3.yaml`.
        llm: the file in it with the language model's weights.

    Attributes:
        files: the files that it must have.

    Raises:
        ValueError: `llm` is not a plain file name.
    """

    def __init__(self, path: str | Path, llm: str = LLM) -> None:
        if not llm or Path(llm).name != llm:
            raise ValueError(f"llm_weights is {llm!r}; it must be the name of a file in model_dir, such as {LLM_RL}")
        self.path = Path(path).expanduser()
        self.llm = llm
        self.files = tuple(replace(file, name=llm) if file.name == LLM else file for file in FILES)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def missing(self) -> list[File]:
        """List the files that are missing or empty."""
        return [file for file in self.files if not self.size(file.name)]

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, 0 if it is missing."""
        path = self / name
        return path.stat().st_size if path.is_file() else 0

    def require(self) -> None:
        """Raise WeightsError unless all files are there. It names the missing files and their place of publication."""
        if not self.path.is_dir():
            raise WeightsError(f"The model directory {self.path} does not exist. {PUBLISHED}")
        if missing := self.missing():
            names = ", ".join(f"{file.name} (about {megabytes(file.published_mb)})" for file in missing)
            raise WeightsError(f"The model directory {self.path} lacks {names}. {PUBLISHED}")

    @cached_property
    def numbers(self) -> numbers.Numbers:
        return numbers.read(self / YAML)

    @cached_property
    def qwen(self) -> dict:
        """Read `config.json` of the language model's body. Raises WeightsError if it is no JSON object."""
        path = self / QWEN_CONFIG
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise WeightsError(f"{path} can't be read as JSON. Fetch the file again.") from error
        if not isinstance(config, dict):
            raise WeightsError(f"{path} holds no JSON object. Fetch the file again.")
        return config

    def fingerprint(self) -> str:
        """Compute eight hex digits that differ between checkpoints and are the same on every machine.

        They are a hash of names, sizes, and both ends of every file: reading 4 GB at each start would take longer than
        loading them.
        """
        digest = hashlib.sha256()
        for file in self.files:
            path = self / file.name
            digest.update(f"{file.name}:{path.stat().st_size};".encode())
            with path.open("rb") as content:
                digest.update(content.read(_SAMPLE))
                content.seek(max(0, path.stat().st_size - _SAMPLE))
                digest.update(content.read(_SAMPLE))
        return digest.hexdigest()[:8]


def megabytes(size: float) -> str:
    return f"{size / 1000:.2f} GB" if size >= 1000 else f"{size:.1f} MB" if size >= 1 else f"{size * 1000:.0f} kB"
