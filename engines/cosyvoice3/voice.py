"""Turns a reference clip into a voice: features on the CPU first, then tokens and embedding by two ONNX models.

On a GPU torch computes the ONNX models, and clips that come together share runs (`onnx.py`). A voice is about 162 kB
for a clip of ten seconds, and holds all that the later stages need of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.contract import Reference, Voice
from engines.cosyvoice3 import features
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.guard import guarded
from engines.cosyvoice3.onnx import SpeakerEmbedder, SpeechTokenizer
from engines.cosyvoice3.resample import resample
from speech.errors import InvalidInput, SpeechError

_FRAMES_PER_TOKEN = 2
_SAMPLES_S = (3.0, 3.37, 3.14, 3.51)  #: seconds of noise to try the models on; frames leave each rest by 4


def reference(samples: np.ndarray, rate: int, transcript: str | None) -> Reference:
    """Compute the three models' features of a clip, each view resampled directly from the original.

    The arrays are float32: `whisper_mel` (128, 100 a second), `fbank` (100 a second, 80), `prompt_mel` (50 a second,
    80). They replace the views, which later stages do not need and which are not sent along.
    """
    samples = np.array(samples, dtype=np.float32)  # torch takes no read-only array
    at_16k = resample(samples, rate, features.WHISPER_RATE)
    at_24k = resample(samples, rate, features.PROMPT_RATE)
    return Reference(
        {},
        {
            "whisper_mel": features.whisper_mel(at_16k),
            "fbank": features.fbank(at_16k),
            "prompt_mel": features.prompt_mel(at_24k),
        },
        transcript,
    )


class CosyVoice3SpeakerEncoder:
    """An `engines.contract.SpeakerEncoder`. Loading runs both models once, so that the first request is fast."""

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1) -> None:
        noise = np.random.default_rng(0).normal(0, 0.1, 4 * 24_000).astype(np.float32)
        clips = [reference(noise[: round(seconds * 24_000)], 24_000, None) for seconds in _SAMPLES_S]
        mels, banks = ([clip.arrays[name] for clip in clips] for name in ("whisper_mel", "fbank"))
        self._tokenizer = SpeechTokenizer(directory, device, threads, mels)
        self._embedder = SpeakerEmbedder(directory, device, threads, banks)
        self._several(clips[:1] if device.startswith("cpu") else clips)

    def probe(self) -> np.ndarray:
        """Return (1,), the number of speech tokens of a short silence.

        The tokenizer runs on the device. The tokens themselves may depend on its rounding, so they are only counted.
        """
        return np.array([len(self._tokenizer(np.zeros((128, 8), np.float32)))], np.float32)

    def encode(self, references: Sequence[Reference]) -> list[Voice | SpeechError]:
        """Return a Voice for each clip, or its SpeechError.

        A Voice's arrays are `speech_tokens` int32 (n,), `prompt_mel` float32 (2n, 80), `embedding` float32 (192,), and
        `transcript`, its UTF-8 as uint8, if there is one.
        """
        made = guarded(self._several, references)
        if not isinstance(made, SpeechError):
            return made
        # The models do not tell which clip made them fail: compute each alone, so that only the bad one fails.
        return [made] if len(references) == 1 else [guarded(self._single, clip) for clip in references]

    def _single(self, clip: Reference) -> Voice | SpeechError:
        return self._several([clip])[0]

    def _several(self, references: Sequence[Reference]) -> list[Voice | SpeechError]:
        tokens = self._tokenizer.several([clip.arrays["whisper_mel"] for clip in references])
        embeddings = self._embedder.several([clip.arrays["fbank"] for clip in references])
        return [guarded(self._voice, *each) for each in zip(references, tokens, embeddings, strict=True)]

    def _voice(self, clip: Reference, tokens: np.ndarray, embedding: np.ndarray) -> Voice:
        mel = clip.arrays["prompt_mel"]
        # Mel and tokens are two measures of the same time: both end with the shorter.
        count = min(len(tokens), len(mel) // _FRAMES_PER_TOKEN)
        if count == 0:
            raise InvalidInput(
                "The reference clip is too short for a voice to be found in it; use 3 to 30 s of speech.",
                param="prompt_audio",
                code="clip_too_short",
            )
        arrays = {
            "speech_tokens": tokens[:count],
            "prompt_mel": np.ascontiguousarray(mel[: _FRAMES_PER_TOKEN * count]),
            "embedding": embedding,
        }
        if clip.transcript:
            arrays["transcript"] = np.frombuffer(clip.transcript.encode(), np.uint8)
        return Voice(arrays)


def transcript(voice: Voice) -> str | None:
    """Return the transcript of the voice's clip, or None if it is unknown."""
    encoded = voice.arrays.get("transcript")
    return None if encoded is None else np.asarray(encoded, np.uint8).tobytes().decode()
