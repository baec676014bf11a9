"""The contract between engines and the graph, and the registry that finds an engine by name.

An engine is three models that never meet: each stage's replica loads its own part and nothing else. All calls are
batched: they take lists and return lists. A batch gives each member the result it would get alone, within the engine's
stated tolerance. A member that fails is *returned* as a `SpeechError` in its place, so that its neighbours go on. An
exception that is *raised* means that the batch as a whole could not be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import numpy as np

from config.unknown_key import unknown_key
from speech.errors import InvalidInput, SpeechError, UnsupportedDialect
from speech.limits import CLIP_SECONDS
from speech.utterance import Utterance as Utterance  # part of the contract, so engines import it from here
from speech.words import Timings

Arrays = Mapping[str, np.ndarray]
#: the tokens an acoustic model has chosen so far, for each part of an utterance; only the same engine reads them
Said = tuple[tuple[int, ...], ...]
#: a chunk's end in its utterance: part, seconds of that part, and whether the part is complete
Reach = tuple[int, float, bool]


@dataclass(frozen=True)
class Capabilities:
    """The abilities of the running engine. `/api/dialects` serves them; they are checked before any stage is called."""

    name: str  #: `model.name` in traces
    version: str  #: `model.version` in traces; a stored voice is only valid for the version that made it
    sample_rate: int  #: Hz of the speech it makes
    dialects: frozenset[str]  #: dialect codes it can speak (`en-US`, `zh-CN`)
    modes: frozenset[str]  #: of `fast`, `instruct`
    reference_rates: tuple[int, ...]  #: Hz of the views of the reference clip it wants
    reference_seconds: tuple[float, float] = CLIP_SECONDS  #: shortest and longest reference clip
    #: True: the acoustic model is a ContinuousAcousticModel that streams, and the vocoder a StreamingVocoder. False: a
    #: streamed text goes through the graph sentence by sentence.
    streaming: bool = False
    #: True: the acoustic model says a text while it comes (`Utterance.live`). Only with `streaming`.
    live_text: bool = False
    notice: str = ""  #: shown to users about the result ("steers a voice, is no true clone")
    fits_voices: bool = False  #: True: the engine is a FittingEngine
    mixes_voices: bool = False  #: True: the engine is a MixingEngine
    #: of `speech.words.GRANULARITIES`; more than `part` where the acoustic model makes `Mel.timings` and the vocoder is
    #: a TimedVocoder
    timestamps: tuple[str, ...] = ("part",)

    def check_dialect(self, code: str) -> None:
        """Raise UnsupportedDialect for a dialect code that it can't speak."""
        if code not in self.dialects:
            raise UnsupportedDialect(
                f"The running engine ({self.name}) can't speak this dialect. It speaks "
                f"{', '.join(sorted(self.dialects))}. Nothing is spoken in another dialect instead.",
                param="dialect",
                code="unsupported_dialect",
            )

    def check_timestamps(self, granularity: str | None) -> None:
        """Raise InvalidInput for timestamps that it can't give."""
        if granularity is not None and granularity not in self.timestamps:
            raise InvalidInput(
                f"The running engine ({self.name}) does not know when it says each {granularity}. It gives times by "
                f"{', '.join(self.timestamps)} (`timestamps` in GET /api/dialects): send one of these, or leave the "
                "field out.",
                param="timestamps",
                code="timestamps_unsupported",
            )

    def check_live_text(self) -> None:
        """Raise InvalidInput if the engine can't say a text while it comes."""
        if not self.live_text:
            raise InvalidInput(
                f"The running engine ({self.name}) can't say a text token by token. Ask for "
                "`split_granularity=clause`: it is spoken clause by clause while it comes.",
                param="split_granularity",
                code="live_text_unsupported",
            )


@dataclass(frozen=True)
class Reference:
    """A checked and resampled reference clip. `views[rate]` is mono float32 (n,) in ±1 at `rate` Hz."""

    views: Mapping[int, np.ndarray]
    arrays: Arrays = field(default_factory=dict)  #: features an engine computes once, on the CPU, while preparing
    transcript: str | None = None
    for_fit: bool = False  #: True: the voice needs what only a fit uses, since the clip will not be at hand then


@dataclass(frozen=True)
class Phase:
    """A part of a stage's work that gets a span of its own. Times are ns since the epoch; tags have few values."""

    name: str
    start_ns: int
    end_ns: int
    tags: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Voice:
    """The speaker encoder's result: named arrays that only the same engine's acoustic model understands."""

    arrays: Arrays


@dataclass(frozen=True)
class Mel:
    """Acoustic features for the vocoder: named arrays, and the seconds of audio they make."""

    arrays: Arrays
    seconds: float
    phases: tuple[Phase, ...] = ()
    timings: Timings | None = None  #: of the words in it, where the engine knows them
    divisible: bool = False  #: True: the engine's vocoder is a StreamingVocoder, which can make its sound part by part


@dataclass(frozen=True)
class MelChunk:
    """The beginning of a mel that is still being made. Each chunk holds all that came before it in its part.

    Or the beginning of a `divisible` Mel: `arrays` are all of the Mel's, and `seconds` says how far its sound goes.

    A text may be made in parts, one after the other. Each part is computed independently of the others.
    """

    arrays: Arrays  #: like a Mel's, from the beginning of the part to here
    seconds: float  #: of the part's audio so far
    part: int  #: from 0
    final: bool  #: True: the part is complete
    last: bool = False  #: True: the utterance is complete, too
    phases: tuple[Phase, ...] = ()  #: only in the last chunk: those of the whole utterance
    said: Said = ()  #: the tokens of all chunks up to this one, and maybe a few more; see `submit`
    kept: np.ndarray | None = None  #: what the vocoder has to know of the part's earlier chunks: `ChunkAudio.kept`

    @property
    def reaches(self) -> Reach:
        """The chunk's end in the utterance: part, seconds of that part, and whether the part is complete.

        Chunks made a second time may be cut elsewhere; this value tells which of them are new.
        """
        return self.part, self.seconds, self.final


@dataclass(frozen=True)
class TextWanted:
    """The end of a live ticket that ran out of text: the same utterance goes on in a new ticket, with more text."""

    said: Said  #: the tokens so far; see `submit`
    tokens: int  #: the least number of text tokens with which it says more


class SpeakerEncoder(Protocol):
    def encode(self, references: Sequence[Reference]) -> list[Voice | SpeechError]: ...


class AcousticModel(Protocol):
    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel | SpeechError]: ...


class Ticket(Protocol):
    """One utterance on its way through a `ContinuousAcousticModel`, which alone writes to it."""

    joined_ns: int | None  #: start of its first computation, ns since the epoch; None while it waits for a row
    batch_size: int | None  #: mean number of rows it was computed with; None before it joined
    batch_id: str | None  #: id of the batch that finished it, 16 hex digits; None before there was one
    said: Said  #: tokens so far; read them before the ticket is cancelled, in the thread that calls `step`


@runtime_checkable
class ContinuousAcousticModel(AcousticModel, Protocol):
    """An acoustic model that utterances join and leave between any two steps.

        ticket = model.submit(utterance, voice)
        while ticket not in (finished := dict(model.step())): ...
        finished[ticket]

    It owns no threads: all calls come from the one thread that loaded it, but for the three attributes. While a ticket
    is under way `step` is due at once, and brings some ticket nearer to its end.
    """

    rows: int  #: utterances, or parts of an utterance, that fit into its memory at a time
    decoding: int  #: rows in use now
    waiting: int  #: utterances or parts that wait for a row

    def configure(self, rows: int | None = None, wait_ms: float | None = None) -> None:
        """Limit the rows in use and the time that decoded rows wait for a batch. Work under way goes on undisturbed.

        Args:
            rows: the most rows to use; None leaves the limit as it is.
            wait_ms: the longest wait for other rows, in ms; None leaves it as it is.

        Raises:
            ValueError: there are fewer rows than that, or the wait is negative.
        """
        ...

    def submit(
        self,
        utterance: Utterance,
        voice: Voice,
        stream: bool = False,
        said: Said = (),
        beyond: Reach | None = None,
    ) -> Ticket | SpeechError:
        """Queue an utterance; it joins at the first step that has a free row.

        A `live` text is said while it comes. Its utterance is `open` and holds the text so far. A ticket that has said
        what it can ends with TextWanted, and its rows are free for others. A new ticket with the longer text and the
        tokens goes on after them, on this replica or another. The last ticket's text is not open.

        Args:
            stream: give out chunks while the mel is made. Only where `Capabilities.streaming` is true.
            said: the tokens that the same utterance said in a ticket that was lost, on this replica or another. The
                new ticket goes on after them and ends as the lost one would have. Its chunks come from the beginning
                again, maybe cut elsewhere (`MelChunk.reaches`). The seed alone does not ensure the same tokens: in
                half precision, rounding depends on the other rows of the batch.
            beyond: `MelChunk.reaches` of the last chunk that was heard; only chunks that reach further are made.

        Returns:
            The ticket, or the SpeechError of an utterance that can't be said.
        """
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Drop a ticket at any stage and free its rows at once. Does nothing for a finished ticket."""
        ...

    def step(self) -> list[tuple[Ticket, Mel | MelChunk | TextWanted | SpeechError]]:
        """Compute one step for all tickets.

        If it raises, no ticket is finished, and every ticket must be cancelled before the next step. A ticket that has
        not joined took no part in the step.

        Returns:
            The results of this step; [] if there is no ticket. A streamed ticket gives MelChunks in the order of their
            audio, and is finished with the chunk that is `last`, or with TextWanted.
        """
        ...


class Vocoder(Protocol):
    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray | SpeechError]:
        """Return mono float32 (n,) in ±1 at the engine's sample rate for each Mel."""
        ...


@runtime_checkable
class TimedVocoder(Vocoder, Protocol):
    """A vocoder that says which part of a mel's sound it gives out, so that the times of words can be told."""

    def vocode_timed(self, mels: Sequence[Mel]) -> list[tuple[np.ndarray, float] | SpeechError]:
        """Compute what `vocode` does, each with the seconds of sound that are cut off before its first sample."""
        ...


@dataclass(frozen=True)
class ChunkAudio:
    """Holds the samples that a chunk adds, where more has to be said of them.

    Attributes:
        samples: mono float32 (n,).
        complete: a divisible Mel's sound came whole, though the chunk was not `final`. Nothing is to come.
        kept: what the part's next chunks have to know, as their `MelChunk.kept`; under 100 kB.
        cut_s: seconds of the part's sound that were cut off before what was given out first.
    """

    samples: np.ndarray
    complete: bool = False
    kept: np.ndarray | None = None
    cut_s: float = 0.0


@runtime_checkable
class StreamingVocoder(Vocoder, Protocol):
    """A vocoder whose audio for the beginning of a part stays the same when more of the part comes.

    It keeps no state between chunks, so any replica may compute any chunk.
    """

    def vocode_chunks(self, chunks: Sequence[tuple[MelChunk, int]]) -> Sequence[np.ndarray | ChunkAudio | SpeechError]:
        """Compute the samples that follow those given out already.

        Args:
            chunks: each chunk with the number of samples of its part that were given out before.

        Returns:
            Mono float32 (n,) for each chunk. Until the part is `final`, the samples that may still change are held
            back, so n may be 0.
        """
        ...


@runtime_checkable
class Probed(Protocol):
    """A model that can show that its device still computes. The thread that loaded it asks between two batches."""

    def probe(self) -> np.ndarray:
        """Compute a small float array with the model's own weights on its own device, in a few milliseconds.

        The result is the same every time and contains no data of any request.
        """
        ...


@dataclass(frozen=True)
class FitOutcome:
    """The result of a fit. Similarities and losses are those of sentences that were not fitted."""

    voice: Voice  #: the fitted voice if it is kept, else the one that the fit began with
    kept: bool
    why: str  #: a sentence about the check: which measure keeps the fitted voice from being used; empty if it is kept
    stopped: str  #: `all_steps`, `close_enough` or `no_gain`
    steps: int  #: steps made; the best of them is the result
    loss_before: float  #: 1 - cosine similarity to the speaker
    loss_after: float
    seconds: float  #: of computing, over all processes that worked on it
    changes: Mapping[str, float] = field(default_factory=dict)  #: what the check measured, by name


class VoiceFit(Protocol):
    """One voice on its way to its speaker. It can be dropped between any two calls, or stored and taken up again."""

    step: int  #: steps made
    steps: int  #: steps at most
    outcome: FitOutcome | None  #: None until it is finished

    def advance(self) -> None:
        """Compute for a second or two: prepare, make a step, or finish. Does nothing when finished."""
        ...

    def state(self) -> Arrays:
        """Return all that another process needs to go on from here."""
        ...


class VoiceFitter(Protocol):
    """The networks of fits. All calls come from the thread that loaded it; several fits may be under way."""

    def begin(self, voice: Voice, state: Arrays | None = None, clip: Callable[[], Reference] | None = None) -> VoiceFit:
        """Begin the fit of a voice that the same engine's speaker encoder made.

        Args:
            voice: the voice. Where its reference was `for_fit`, a fit needs nothing else of the clip.
            state: `VoiceFit.state()` of an earlier fit of the same voice, which is taken up; None begins anew.
            clip: reads the voice's clip, which costs time, so it is only called if the fit needs it; None where the
                clip is not at hand.

        Raises:
            ValueError: the state is of another version of the engine.
            SpeechError: `clip` failed.
        """
        ...


class Engine(Protocol):
    """A family of models, with one loader for each stage.

    `device` is a torch device string (`cpu`, `cuda`), `threads` the torch threads that a replica may use. A loader
    raises `WeightsError` if a file is missing or damaged. Loading also warms up: the first real request must not pay
    for lazy initialisation.
    """

    capabilities: Capabilities

    def check(self, utterance: Utterance) -> None:
        """Raise a `SpeechError` for a request that this engine can't serve. Runs in the ingress, loads no weights."""
        ...

    def prepare(self, samples: np.ndarray, rate: int, transcript: str | None = None) -> Reference:
        """Turn mono float32 (n,) at `rate` Hz into the speaker encoder's input. CPU only, no weights, thread-safe."""
        ...

    def load_speaker_encoder(self, device: str = "cpu", threads: int = 1) -> SpeakerEncoder: ...

    def load_acoustic_model(self, device: str = "cpu", threads: int = 1) -> AcousticModel: ...

    def load_vocoder(self, device: str = "cpu", threads: int = 1) -> Vocoder: ...


@runtime_checkable
class TunedEngine(Protocol):
    """An engine with environment variables for the native libraries of its models.

    A replica sets them before it calls the loader. Where models of several stages share a process, as in tests and
    benchmarks, they are not set: the libraries read them once.
    """

    process_settings: Mapping[str, Mapping[str, str]]  #: by stage (`GENERATE_MEL`): variable -> value


class FittingEngine(Engine, Protocol):
    """An engine that can fit a voice to its speaker; `Capabilities.fits_voices` is true.

    A fitted voice is a voice like any other: the same acoustic model and vocoder take it, in one batch with others.
    """

    def load_voice_fitter(self, device: str = "cpu", threads: int = 1) -> VoiceFitter: ...


class MixingEngine(Engine, Protocol):
    """An engine whose voices are numbers that have a mean; `Capabilities.mixes_voices` is true."""

    def mix(self, voices: Sequence[Voice], weights: Sequence[float]) -> Voice:
        """Return a voice between these, each of which the speaker encoder or a fit made.

        It runs in the ingress, loads no weights, and takes a few milliseconds.

        Args:
            voices: at least one.
            weights: above 0, one for each voice; their sum may be anything.
        """
        ...


class WeightsError(RuntimeError):
    """A weight file is missing or damaged. The message names the file, what to install, and the command."""


#: name -> "module:factory"; a factory takes the engine's options (strict keyword arguments) and returns an Engine
ENGINES = {
    "cosyvoice3": "engines.cosyvoice3:CosyVoice3Engine",
    "embedded": "engines.embedded:EmbeddedEngine",
    "simulated": "engines.simulated:SimulatedEngine",
}


def create(name: str, options: Mapping[str, Any] | None = None) -> Engine:
    """Build the engine called `name`.

    Raises:
        ValueError: there is no such engine, or it has no such option; the message names the nearest ones.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; known engines: {', '.join(sorted(ENGINES))}")
    module, attribute = ENGINES[name].split(":")
    factory = getattr(import_module(module), attribute)
    known = [
        parameter.name
        for parameter in signature(factory).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for option in options or {}:
        if known and option not in known:
            raise ValueError(unknown_key(option, known, f"the options of the engine {name}"))
    engine: Engine = factory(**(options or {}))
    return engine
