"""An engine of service times instead of models, for tests of scaling, failure and overhead. It makes a tone.

Every stage sleeps for a stated time and passes on arrays of the size that Fun-CosyVoice3-0.5B would (10 s prompt, 10 s
of speech): 640 kB of 16 kHz audio, a 162 kB voice, a 160 kB mel, 480 kB of 16-bit audio. With `character_s`, a longer
text makes longer speech. A batch of n takes
`stage_ms * (1 + batch_slope * (n - 1))`: slope 1 is a device that gains nothing from batching, 0 one that computes a
whole batch in the time of one. With `character_ms`, GENERATE_MEL takes longer for a longer text: a batch takes what its
longest member takes alone, and `batch_slope` of what each other member does.

With `faults`, a request can ask for a failure. `fault:<stage>` in the transcript (prepare, encode) or in the text
(generate, vocode) makes that stage raise as a careless model would: the message and the cause quote the text.
`refuse:generate` makes GENERATE_MEL return an error in this member's place and compute the others.

With `fit_ms`, it fits voices: ten steps of that time each, after which the voice's tone is another. The fitted voice of
a hardly audible clip is not kept.

`fault_file` simulates a faulty device. While the file exists, GENERATE_MEL does what the file says. On `hang`, compute
and probe never return while the process lives; on `raise`, compute raises. With a number after the word, only the
process with that id does so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from config.strict import StrictModel
from engines.contract import Arrays, Capabilities, FitOutcome, Mel, Reference, Utterance, Voice
from speech.dialects import DIALECTS
from speech.errors import InvalidInput, SpeechError

SAMPLE_RATE = 24_000
FIT_STEPS = 10


class Options(StrictModel):
    """Options of the simulated engine."""

    prepare_ms: float = Field(default=2.0, ge=0)
    """Milliseconds of PREPROCESS_AUDIO for one request."""
    encode_ms: float = Field(default=6.0, ge=0)
    """Milliseconds of EXTRACT_SPEAKER for one request."""
    generate_ms: float = Field(default=22.0, ge=0)
    """Milliseconds of GENERATE_MEL for one request."""
    character_ms: float = Field(default=0.0, ge=0)
    """Milliseconds that each character of the text adds to GENERATE_MEL."""
    vocode_ms: float = Field(default=6.0, ge=0)
    """Milliseconds of VOCODE_WAV for one request."""
    batch_slope: float = Field(default=0.25, ge=0, le=1)
    """The share of these times that each further member of a batch adds."""
    seconds: float = Field(default=10.0, gt=0, le=30)
    """Seconds of the prompt and of the speech made."""
    character_s: float = Field(default=0.0, ge=0)
    """Seconds of speech for each character of the text; 0: `seconds`, whatever the text."""
    fit_ms: float = Field(default=0.0, ge=0)
    """Milliseconds of a step of FIT_VOICE; 0: it fits no voices."""
    fault_file: str | None = None
    """For tests: a file that makes stages fail; see engines/simulated."""
    faults: bool = False
    """For tests: obey `fault:…` and `refuse:…` in texts."""

    def generating_ms(self, text: str) -> float:
        """Return what GENERATE_MEL takes for this text alone, in milliseconds."""
        return self.generate_ms + self.character_ms * len(text)

    def speech_s(self, text: str) -> float:
        """Return the seconds of speech that this text makes, 30 at most."""
        return min(30.0, self.character_s * len(text)) or self.seconds

    def obey(self, stage: str, *texts: str | None) -> None:
        """Raise RuntimeError, caused by a ValueError, if a text asks for a fault of this stage; both quote the text."""
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
            notice="Simulated: stated service times and a tone in place of speech.",
            fits_voices=self.options.fit_ms > 0,
            mixes_voices=True,
        )

    def check(self, utterance: Utterance) -> None:
        """Allow every utterance: there is no model that could fail to understand it."""

    def prepare(self, samples: np.ndarray, rate: int, transcript: str | None = None) -> Reference:
        started = time.perf_counter()
        self.options.obey("prepare", transcript)
        view = np.resize(samples, int(self.options.seconds * 16_000)).astype(np.float32)
        _sleep_until(started + self.options.prepare_ms / 1000)
        return Reference({16_000: view}, transcript=transcript)

    def mix(self, voices: Sequence[Voice], weights: Sequence[float]) -> Voice:
        """Return the weighted mean of the voices' arrays."""
        shares = np.asarray(weights, np.float32) / np.float32(sum(weights))
        return Voice(
            {
                name: np.tensordot(shares, np.stack([voice.arrays[name] for voice in voices]), 1)
                for name in voices[0].arrays
            }
        )

    def load_speaker_encoder(self, device: str = "cpu", threads: int = 1) -> _SpeakerEncoder:
        return _SpeakerEncoder(self.options)

    def load_acoustic_model(self, device: str = "cpu", threads: int = 1) -> _AcousticModel:
        return _AcousticModel(self.options)

    def load_vocoder(self, device: str = "cpu", threads: int = 1) -> _Vocoder:
        return _Vocoder(self.options)

    def load_voice_fitter(self, device: str = "cpu", threads: int = 1) -> SimulatedFitter:
        return SimulatedFitter(self.options)


class _Probed:
    """A model whose probe is a matrix product instead of a network's result."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._weights = np.random.default_rng(0).standard_normal((64, 64), np.float32)

    def probe(self) -> np.ndarray:
        return self._weights @ self._weights[0]


class _SpeakerEncoder(_Probed):
    def encode(self, references: Sequence[Reference]) -> list[Voice]:
        _work([self._options.encode_ms] * len(references), self._options.batch_slope)
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

    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel | SpeechError]:
        match self._fault():
            case "hang":
                threading.Event().wait()
            case "raise":
                raise RuntimeError("the simulated device is ill")
        options = self._options
        _work([options.generating_ms(utterance.text) for utterance, _ in jobs], options.batch_slope)
        self._options.obey("generate", *(utterance.text for utterance, _ in jobs))
        return [self._one(utterance, voice) for utterance, voice in jobs]

    def _one(self, utterance: Utterance, voice: Voice) -> Mel | SpeechError:
        if self._options.faults and "refuse:generate" in utterance.text:
            return InvalidInput("The simulated engine was asked to refuse this text.", param="text", code="refused")
        # The pitch depends on text, voice and seed, so a test can tell that an answer belongs to its own request.
        seconds = self._options.speech_s(utterance.text)
        arrays = {"mel": np.full((80, int(seconds * 50)), _pitch(utterance, voice), np.float32)}
        if self._options.faults:  # the vocoder sees no text, but must be able to fail on it
            arrays["text"] = np.frombuffer(utterance.text.encode(), np.uint8)
        return Mel(arrays, seconds)


class _Vocoder(_Probed):
    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray]:
        _work([self._options.vocode_ms] * len(mels), self._options.batch_slope)
        if self._options.faults:
            self._options.obey("vocode", *(mel.arrays["text"].tobytes().decode() for mel in mels))
        return [_tone(float(mel.arrays["mel"][0, 0]), mel.seconds) for mel in mels]


class SimulatedFitter:
    """An `engines.contract.VoiceFitter` whose steps sleep."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def begin(
        self, voice: Voice, state: Arrays | None = None, clip: Callable[[], Reference] | None = None
    ) -> SimulatedFit:
        if state is not None and "step" not in state:
            raise ValueError("the stored fit is of another version of the engine: begin the fit anew")
        return SimulatedFit(voice, 0 if state is None else int(state["step"]), self._options.fit_ms)


class SimulatedFit:
    """An `engines.contract.VoiceFit` that makes the voice louder by 1, so that its tone is another."""

    steps = FIT_STEPS

    def __init__(self, voice: Voice, step: int, fit_ms: float) -> None:
        self.step = step
        self.outcome: FitOutcome | None = None
        self._voice = voice
        self._fit_ms = fit_ms

    def advance(self) -> None:
        if self.outcome is not None:
            return
        if self.step < self.steps:
            _sleep_until(time.perf_counter() + self._fit_ms / 1000)
            self.step += 1
            return
        embedding = self._voice.arrays["embedding"]
        kept = bool(embedding.max() > 0.05)
        self.outcome = FitOutcome(
            voice=Voice({**self._voice.arrays, "embedding": embedding + 1}) if kept else self._voice,
            kept=kept,
            why="" if kept else "it is hardly nearer to the speaker",
            stopped="all_steps",
            steps=self.step,
            loss_before=0.5,
            loss_after=0.3 if kept else 0.5,
            seconds=self.steps * self._fit_ms / 1000,
        )

    def state(self) -> Arrays:
        return {"step": np.array(self.step)}


def _pitch(utterance: Utterance, voice: Voice) -> float:
    """Return a pitch in Hz. Its period is a whole number of samples, so that neighbouring seeds differ."""
    letters = sum(utterance.text.encode()) + utterance.seed + round(float(voice.arrays["embedding"][0]) * 10)
    return SAMPLE_RATE / (60 + letters % 180)


def _tone(hz: float, seconds: float) -> np.ndarray:
    # One period repeated: a sine over the whole length would cost more than the time being simulated.
    period = max(round(SAMPLE_RATE / hz), 2)
    wave = (0.3 * np.sin(2 * np.pi * np.arange(period) / period)).astype(np.float32)
    return np.resize(wave, int(seconds * SAMPLE_RATE))


def batch_ms(members_ms: Sequence[float], slope: float) -> float:
    """Return what a batch takes, in milliseconds.

    Args:
        members_ms: what each member takes alone.
        slope: the options' `batch_slope`.
    """
    longest = max(members_ms)
    return longest + slope * (sum(members_ms) - longest)


def _work(members_ms: Sequence[float], slope: float) -> None:
    _sleep_until(time.perf_counter() + batch_ms(members_ms, slope) / 1000)


def _sleep_until(moment: float) -> None:
    """Sleep in short parts: a thread without CPU use for seconds counts as hanging (`deployments/stages/health.py`)."""
    while (left := moment - time.perf_counter()) > 0:
        if left > 0.5:
            sum(range(20_000))
        time.sleep(min(left, 0.5))
