"""Service times instead of models: for tests of scaling, failure and overhead. It makes a tone, not speech.

Every stage sleeps for a stated time and passes on arrays of the size that Fun-CosyVoice3-0.5B would (10 s prompt, 10 s
of speech): 640 kB of 16 kHz audio, a 162 kB voice, a 160 kB mel, 480 kB of 16-bit audio. A batch of n takes
`stage_ms * (1 + batch_slope * (n - 1))`: slope 1 is a device that gains nothing from batching, 0 one that computes a
whole batch in the time of one.

With `faults`, a request asks for its own misfortune: `fault:<stage>` in the transcript (prepare, encode) or in the text
(generate, vocode) makes that stage raise as a careless model would, quoting the text in the message and in the cause;
`refuse:generate` makes GENERATE_MEL return an error in this member's place and compute the others.

A device that is ill: while `fault_file` exists, GENERATE_MEL does what it says, `hang` (compute and probe do not
return, and nothing wakes them but the end of the process) or `raise`; with a number behind it, only the process of that
number does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engines.contract import Capabilities, Mel, Reference, Utterance, Voice
from speech.dialects import DIALECTS
from speech.errors import InvalidInput, SpeechError

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
    fault_file: str | None = None  #: see above; for tests
    faults: bool = False  #: obey `fault:…` and `refuse:…` in texts; for tests

    def obey(self, stage: str, *texts: str | None) -> None:
        """Raise RuntimeError, its cause a ValueError, both quoting the text that asks for a fault of this stage."""
        for text in texts if self.faults else ():
            if f"fault:{stage}" in (text or ""):
                try:
                    raise ValueError(f"no phonemes for {text!r}")
                except ValueError as error:
                    raise RuntimeError(f"{stage} could not handle {text!r}") from error


class SimulatedEngine:
    def __init__(self, **options) -> None:
        self.options = Options(**options)
        self.capabilities = Capabilities(
            name="simulated",
            version="1",
            sample_rate=SAMPLE_RATE,
            dialects=frozenset(dialect.code for dialect in DIALECTS),
            modes=frozenset({"fast", "instruct"}),
            reference_rates=(16_000,),
            embedding_size=192,
            notice="Simulated: stated service times and a tone in place of speech.",
        )

    def check(self, utterance: Utterance) -> None:
        """Everything is allowed: there is no model that could fail to understand it."""

    def prepare(self, samples: np.ndarray, rate: int, transcript: str | None = None) -> Reference:
        started = time.perf_counter()
        self.options.obey("prepare", transcript)
        view = np.resize(samples, int(self.options.seconds * 16_000)).astype(np.float32)
        _sleep_until(started + self.options.prepare_ms / 1000)
        return Reference({16_000: view}, transcript=transcript)

    def load_speaker_encoder(self, device: str = "cpu", threads: int = 1) -> _SpeakerEncoder:
        return _SpeakerEncoder(self.options)

    def load_acoustic_model(self, device: str = "cpu", threads: int = 1) -> _AcousticModel:
        return _AcousticModel(self.options)

    def load_vocoder(self, device: str = "cpu", threads: int = 1) -> _Vocoder:
        return _Vocoder(self.options)


class _Probed:
    """A matrix product in place of a network's."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._weights = np.random.default_rng(0).standard_normal((64, 64), np.float32)

    def probe(self) -> np.ndarray:
        return self._weights @ self._weights[0]


class _SpeakerEncoder(_Probed):
    def encode(self, references: Sequence[Reference]) -> list[Voice]:
        _work(self._options.encode_ms, len(references), self._options.batch_slope)
        self._options.obey("encode", *(reference.transcript for reference in references))
        mel = np.zeros((int(self._options.seconds * 50), 80), np.float32)
        return [
            Voice(
                {"embedding": np.full(192, float(np.abs(reference.views[16_000]).max()), np.float32), "prompt_mel": mel}
            )
            for reference in references
        ]


class _AcousticModel(_Probed):
    def probe(self) -> np.ndarray:
        if self._fault() == "hang":
            threading.Event().wait()
        return super().probe()

    def _fault(self) -> str | None:
        try:
            what, *process = Path(self._options.fault_file or "").read_text().split()
        except (OSError, ValueError):
            return None
        return what if process in ([], [str(os.getpid())]) else None

    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel]:
        match self._fault():
            case "hang":
                threading.Event().wait()
            case "raise":
                raise RuntimeError("the simulated device is ill")
        _work(self._options.generate_ms, len(jobs), self._options.batch_slope)
        self._options.obey("generate", *(utterance.text for utterance, _ in jobs))
        return [self._one(utterance, voice) for utterance, voice in jobs]

    def _one(self, utterance: Utterance, voice: Voice) -> Mel | SpeechError:
        if self._options.faults and "refuse:generate" in utterance.text:
            return InvalidInput("The simulated engine was asked to refuse this text.", param="text", code="refused")
        # The pitch follows text, voice and seed: a test can tell that an answer belongs to its own request.
        arrays = {"mel": np.full((80, int(self._options.seconds * 50)), _pitch(utterance, voice), np.float32)}
        if self._options.faults:  # the vocoder sees no text, and is to fail by it
            arrays["text"] = np.frombuffer(utterance.text.encode(), np.uint8)
        return Mel(arrays, self._options.seconds)


class _Vocoder(_Probed):
    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray]:
        _work(self._options.vocode_ms, len(mels), self._options.batch_slope)
        if self._options.faults:
            self._options.obey("vocode", *(mel.arrays["text"].tobytes().decode() for mel in mels))
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
    _sleep_until(time.perf_counter() + stage_ms / 1000 * (1 + slope * (count - 1)))


def _sleep_until(moment: float) -> None:
    """In parts: a thread that uses no CPU at all for seconds is one that hangs (`deployments/stages/health.py`)."""
    while (left := moment - time.perf_counter()) > 0:
        if left > 0.5:
            sum(range(20_000))
        time.sleep(min(left, 0.5))
