"""What an engine offers to the graph, and the registry that finds one by name.

An engine is three models that never meet: each stage's replica loads its own part and nothing else. Everything is
batched by nature, lists in and lists out, and a batch gives each member what it would get alone (within the
engine's stated tolerance). A member that fails is *returned* as a `SpeechError` in its place, so that it never takes
its neighbours with it; an exception that is *raised* means the batch as a whole could not be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import numpy as np

from config.unknown_key import unknown_key
from speech.errors import SpeechError, UnsupportedDialect
from speech.limits import CLIP_SECONDS
from speech.utterance import Utterance as Utterance  # part of the contract, so engines import it from here

Arrays = Mapping[str, np.ndarray]
#: what an acoustic model has decided of an utterance so far, for each of its parts; only the same engine reads it
Said = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Capabilities:
    """What the running engine can do; served by `/api/dialects` and checked before any stage is called."""

    name: str  #: `model.name` in traces
    version: str  #: `model.version` in traces; a stored voice is only valid for the version that made it
    sample_rate: int  #: Hz of the speech it makes
    dialects: frozenset[str]  #: dialect codes it can speak (`en-US`, `zh-CN`)
    modes: frozenset[str]  #: of `fast`, `instruct`
    reference_rates: tuple[int, ...]  #: Hz of the views of the reference clip it wants
    reference_seconds: tuple[float, float] = CLIP_SECONDS  #: shortest and longest reference clip
    embedding_size: int = 256
    max_batch_size: Mapping[str, int] = field(default_factory=dict)
    #: its acoustic model is a ContinuousAcousticModel that streams, its vocoder a StreamingVocoder; where it is False,
    #: a streamed text goes through the graph sentence by sentence
    streaming: bool = False
    notice: str = ""  #: what a user must know about the result ("steers a voice, is no true clone")

    def check_dialect(self, code: str) -> None:
        """Raise UnsupportedDialect for a dialect code that it can't speak."""
        if code not in self.dialects:
            raise UnsupportedDialect(
                f"The running engine ({self.name}) can't speak this dialect. It speaks "
                f"{', '.join(sorted(self.dialects))}. Nothing is spoken in another dialect instead.",
                param="dialect",
                code="unsupported_dialect",
            )


@dataclass(frozen=True)
class Reference:
    """A checked reference clip, resampled. `views[rate]` is mono float32 (n,) in ±1 at `rate` Hz."""

    views: Mapping[int, np.ndarray]
    arrays: Arrays = field(default_factory=dict)  #: features an engine computes once, on the CPU, while preparing
    transcript: str | None = None


@dataclass(frozen=True)
class Phase:
    """A part of a stage's work worth a span of its own. Times in ns since the epoch, tags small and closed."""

    name: str
    start_ns: int
    end_ns: int
    tags: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Voice:
    """What the speaker encoder found: named arrays that only the same engine's acoustic model understands."""

    arrays: Arrays


@dataclass(frozen=True)
class Mel:
    """Acoustic features for the vocoder: named arrays, and how much audio they make."""

    arrays: Arrays
    seconds: float
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class MelChunk:
    """The beginning of a mel that is still being made, each chunk with all that came before it in its part.

    A text may be made in parts, one behind the other, that sound independently of each other.
    """

    arrays: Arrays  #: as a Mel's, of the part from its beginning to here
    seconds: float  #: of the part's audio so far
    part: int  #: from 0
    final: bool  #: the part is complete
    last: bool = False  #: and so is the utterance
    phases: tuple[Phase, ...] = ()  #: in the last one alone, of the whole utterance
    said: Said = ()  #: what it and all before it were made of, and maybe a little more; see `submit`

    @property
    def reaches(self) -> tuple[int, float, bool]:
        """How far into the utterance; chunks made a second time may be cut elsewhere, and this tells which are new."""
        return self.part, self.seconds, self.final


class SpeakerEncoder(Protocol):
    def encode(self, references: Sequence[Reference]) -> list[Voice | SpeechError]: ...


class AcousticModel(Protocol):
    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel | SpeechError]: ...


class Ticket(Protocol):
    """One utterance on its way through a `ContinuousAcousticModel`, which alone writes to it."""

    joined_ns: int | None  #: when it was first computed for, ns since the epoch; None while it waits for a row
    batch_size: int | None  #: with how many it was computed together, on average; None before it joined
    batch_id: str | None  #: of the batch that finished it, 16 hex digits; None before there was one
    said: Said  #: so far; read it before the ticket is cancelled, and in the thread that calls `step`


@runtime_checkable
class ContinuousAcousticModel(AcousticModel, Protocol):
    """An acoustic model that utterances join and leave between any two steps.

        ticket = model.submit(utterance, voice)
        while ticket not in (finished := dict(model.step())): ...
        finished[ticket]

    It owns no threads: all calls come from the one thread that loaded it, but for the three attributes. While a ticket
    is under way `step` is due at once, and brings some ticket nearer to its end.
    """

    rows: int  #: utterances, or parts of one, that it has memory for at a time
    decoding: int  #: of them, how many are taken now
    waiting: int  #: how many wait for one

    def configure(self, rows: int | None = None, wait_ms: float | None = None) -> None:
        """Use at most `rows` of its rows; let what is to be finished wait at most so long for company.

        Raises ValueError for rows it doesn't have, or a negative wait. What is under way is not disturbed.
        """
        ...

    def submit(self, utterance: Utterance, voice: Voice, stream: bool = False, said: Said = ()) -> Ticket | SpeechError:
        """Queue an utterance; it joins at the first step that has a row for it. One that can't be said is refused.

        Args:
            stream: let it out in chunks as it is made. Only where `Capabilities.streaming` is true.
            said: what the same utterance has said before, in a ticket that was lost, on this replica or another: it
                goes on behind that and ends as it would have. Its chunks come from the beginning again, maybe cut
                elsewhere (`MelChunk.reaches`). The seed alone does not promise that: half precision rounds
                otherwise in other company.
        """
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Forget a ticket, wherever it is; its rows are free at once. Does nothing for one that is finished."""
        ...

    def step(self) -> list[tuple[Ticket, Mel | MelChunk | SpeechError]]:
        """Compute a little for everybody; returns those who are finished by it. Returns [] when nobody is there.

        A streamed ticket gives MelChunks, in the order of their audio, and is finished with the one that is `last`.
        Where it raises, nobody is finished, and every ticket must be cancelled before the next step. A ticket that has
        not joined had no part in it.
        """
        ...


class Vocoder(Protocol):
    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray | SpeechError]:
        """Mono float32 (n,) in ±1 at the engine's sample rate, one per Mel."""
        ...


@runtime_checkable
class StreamingVocoder(Vocoder, Protocol):
    """A vocoder whose audio for the beginning of a part stays what it is when more of the part comes.

    It keeps nothing from one chunk to the next, so any replica may take any of them.
    """

    def vocode_chunks(self, chunks: Sequence[tuple[MelChunk, int]]) -> list[np.ndarray | SpeechError]:
        """Each chunk with the samples of its part that are given out already -> those that follow them, mono float32.

        As far as they are sure: until the part is `final` a little is held back, and the result may be empty.
        """
        ...


@runtime_checkable
class Probed(Protocol):
    """A model that can show that its device still computes; asked between two batches, by the thread that loaded it."""

    def probe(self) -> np.ndarray:
        """Float array of something small that its own weights give on its own device: the same every time, in a few
        milliseconds. Nothing of it is anybody's request."""
        ...


class Engine(Protocol):
    """`device` is a torch device string (`cpu`, `cuda`), `threads` the torch threads a replica may use.

    A loader raises `WeightsError` where a file is missing or damaged. Loading also warms up: the first real
    request must not pay for lazy initialisation.
    """

    capabilities: Capabilities

    def check(self, utterance: Utterance) -> None:
        """Raise a `SpeechError` for what this engine can't do. Cheap: runs in the ingress, loads no weights."""
        ...

    def prepare(self, samples: np.ndarray, rate: int, transcript: str | None = None) -> Reference:
        """Mono float32 (n,) at `rate` Hz -> what the speaker encoder wants. CPU only, no weights, thread-safe."""
        ...

    def load_speaker_encoder(self, device: str = "cpu", threads: int = 1) -> SpeakerEncoder: ...

    def load_acoustic_model(self, device: str = "cpu", threads: int = 1) -> AcousticModel: ...

    def load_vocoder(self, device: str = "cpu", threads: int = 1) -> Vocoder: ...


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
