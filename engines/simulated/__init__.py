"""Service times instead of models: for tests of scaling, failure and overhead. It makes a tone, not speech.

Every stage sleeps for a stated time and passes on arrays of the size that Fun-CosyVoice3-0.5B would (10 s prompt, 10 s
of speech): 640 kB of 16 kHz audio, a 162 kB voice, a 160 kB mel, 480 kB of 16-bit audio. A batch of n takes
`stage_ms * (1 + batch_slope * (n - 1))`: slope 1 is a device that gains nothing from batching, 0 one that computes a
whole batch in the time of one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engines.contract import Capabilities, Mel, Reference, Utterance, Voice
from speech.dialects import DIALECTS

SAMPLE_RATE = 24_000


class Options(BaseModel):
    """Times in milliseconds, sizes in seconds of audio."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prepare_ms: float = Field(2.0, ge=0)
    encode_ms: float = Field(6.0, ge=0)
    generate_ms: float = Field(22.0, ge=0)
    vocode_ms: float = Field(6.0, ge=0)
    batch_slope: float = Field(0.25, ge=0, le=1)
    seconds: float = Field(10.0, gt=0, le=30)  #: of prompt and of speech made


class SimulatedEngine:
    def __init__(self, **options) -> None:
        self.options = Options(**options)
        self.capabilities = Capabilities(
            name="simulated", version="1", sample_rate=SAMPLE_RATE,
            dialects=frozenset(dialect.code for dialect in DIALECTS), modes=frozenset({"fast", "instruct"}),
            reference_rates=(16_000,), embedding_size=192,
            notice="Simulated: stated service times and a tone in place of speech.")

    def check(self, utterance: Utterance) -> None:
        """Everything is allowed: there is no model that could fail to understand it."""

    def prepare(self, samples: np.ndarray, rate: int, transcript: str | None = None) -> Reference:
        started = time.perf_counter()
        view = np.resize(samples, int(self.options.seconds * 16_000)).astype(np.float32)
        _sleep_until(started + self.options.prepare_ms / 1000)
        return Reference({16_000: view}, transcript=transcript)

    def load_speaker_encoder(self, device: str = "cpu", threads: int = 1) -> _SpeakerEncoder:
        return _SpeakerEncoder(self.options)

    def load_acoustic_model(self, device: str = "cpu", threads: int = 1) -> _AcousticModel:
        return _AcousticModel(self.options)

    def load_vocoder(self, device: str = "cpu", threads: int = 1) -> _Vocoder:
        return _Vocoder(self.options)


class _SpeakerEncoder:
    def __init__(self, options: Options) -> None:
        self._options = options

    def encode(self, references: Sequence[Reference]) -> list[Voice]:
        _work(self._options.encode_ms, len(references), self._options.batch_slope)
        mel = np.zeros((int(self._options.seconds * 50), 80), np.float32)
        return [Voice({"embedding": np.full(192, float(np.abs(reference.views[16_000]).max()), np.float32),
                       "prompt_mel": mel}) for reference in references]


class _AcousticModel:
    def __init__(self, options: Options) -> None:
        self._options = options

    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel]:
        _work(self._options.generate_ms, len(jobs), self._options.batch_slope)
        frames = int(self._options.seconds * 50)
        # The pitch follows text, voice and seed: a test can tell that an answer belongs to its own request.
        return [Mel({"mel": np.full((80, frames), _pitch(utterance, voice), np.float32)}, self._options.seconds)
                for utterance, voice in jobs]


class _Vocoder:
    def __init__(self, options: Options) -> None:
        self._options = options

    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray]:
        _work(self._options.vocode_ms, len(mels), self._options.batch_slope)
        return [_tone(float(mel.arrays["mel"][0, 0]), mel.seconds) for mel in mels]


def _pitch(utterance: Utterance, voice: Voice) -> float:
    """Hz whose period is a whole number of samples, so that neighbouring seeds differ."""
    letters = sum(utterance.text.encode()) + utterance.seed + round(float(voice.arrays["embedding"][0]) * 10)
    return SAMPLE_RATE / (60 + letters % 180)


def _tone(hz: float, seconds: float) -> np.ndarray:
    # One period repeated: a sine over the whole length would cost more than the time being simulated.
    period = max(round(SAMPLE_RATE / hz), 2)
    wave = (0.3 * np.sin(2 * np.pi * np.arange(period) / period)).astype(np.float32)
    return np.resize(wave, int(seconds * SAMPLE_RATE))


def _work(stage_ms: float, count: int, slope: float) -> None:
    time.sleep(stage_ms / 1000 * (1 + slope * (count - 1)))


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
