"""The acoustic model behind the engine contract takes utterances at any step and makes mels, whole or in chunks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from engines.contract import Mel, MelChunk, Reach, Said, TextWanted, Utterance, Voice
from engines.cosyvoice3 import flow, recording, speech_lm
from engines.cosyvoice3.chunks import ChunkPlan
from engines.cosyvoice3.decoder import Decoder
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.finite import NotFinite
from engines.cosyvoice3.flow import Flow
from engines.cosyvoice3.flow_batches import FlowBatcher, Limits, shapes
from engines.cosyvoice3.flow_worker import FlowBatch, FlowWorker
from engines.cosyvoice3.guard import guarded
from engines.cosyvoice3.plan import LIVE_LEAST, Plan, Planner, warm
from engines.cosyvoice3.speech_lm import SpeechLm
from engines.cosyvoice3.ticket import Part, Stretch, Ticket
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.errors import InternalError, InvalidInput, SpeechError

_log = logging.getLogger(__name__)
#: the most frames, of clip and speech together, of rows whose shapes are recorded: 30 s of clip, and 21 s of a part
LONGEST = 2_560
#: limits of batches that are urgent: small ones, because all of their rows have clients that hear nothing
_URGENT = Limits(rows=4, frames=4_000, wait_ms=0.0)
_URGENT_LONGEST = 1_664  #: as LONGEST: 30 s of clip, and the first chunk
_LEAD_S, _URGENT_S = 1.0, 0.5  #: see `Ticket`; on a GPU, which speaks many times as fast as a client hears
_FIRST_S = 0.3  #: deadline of a first chunk among the urgent chunks
#: limits of any batch on a GPU while streams are under way: a chunk may have to wait for the batch before it
_BESIDE_STREAMS = Limits(rows=4, frames=4_000)
_FEW, _FEW_LEAST = 4, 10  #: with so few requests under way, the first chunk of a stream may have so few tokens
_PATIENCE_S = 0.002  #: wait of a step for the flow if there is no other work; a new request may wait as long


class CosyVoice3AcousticModel:
    """An `engines.contract.ContinuousAcousticModel` of the language model and the flow.

    Each step computes one token for every row of the language model. If enough rows are decoded or have waited long
    enough, it computes a batch of the flow as well. The first chunk of a stream goes through the flow as soon as its
    last token is known, before all other rows (`FlowBatcher`). On a GPU it does not wait for the batch under way
    either: urgent chunks have a thread and a stream of their own. A later chunk is begun only shortly before its
    listener needs it, with all that was said by then (`Ticket`). A Mel's arrays are `mel` float32 (80, n), and `parts`
    int64, the frames of each part of the text; they add up to n. A MelChunk's arrays are the same, for one part.

    Args:
        planner: reads utterances.
        rows, positions: size of the decoder's cache, which is allocated here and never grows. A part without a free
            row waits.
        parity: see `CosyVoice3Engine`.
        limits: limits of the flow's batches.
        beside: True: the flow computes in threads and on streams of its own, and steps go on meanwhile. None: only on
            a GPU, because on a CPU both would only share the cores.
        longest: the most frames of rows whose shapes are recorded when the model is warmed up.
        recording_s: the longest time for that.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        lm: SpeechLm,
        flow: Flow,
        planner: Planner,
        rows: int = 8,
        positions: int = 3072,
        parity: bool = False,
        limits: Limits = Limits(),
        beside: bool | None = None,
        longest: int = LONGEST,
        recording_s: float = recording.SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.planner = planner
        self.decoder = Decoder(lm, rows, positions)
        self._lm = lm
        self.rows = rows
        self.flow = flow
        self._limits = limits
        self._parity = parity
        self._clock = clock
        self._flow_batcher: FlowBatcher[Stretch] = FlowBatcher(limits, clock)
        beside = lm.device.type == "cuda" if beside is None else beside
        self._flow_worker = FlowWorker(flow, beside)
        # Without a second stream an urgent batch would not overtake the one under way.
        self._urgent_batcher: FlowBatcher[Stretch] | None = FlowBatcher(_URGENT, clock) if beside else None
        self._urgent_worker = FlowWorker(flow, beside, urgent=True) if beside else None
        self._lead_s, self._urgent_s = (_LEAD_S, _URGENT_S) if beside else (math.inf, 0.0)
        self._longest, self._recording_s = longest, recording_s
        self._tickets: dict[Ticket, None] = {}  # under way, in the order in which they join
        _log.info(
            "the language model's cache has %d rows of %d positions: %.0f MB",
            rows,
            positions,
            self.decoder.cache.bytes / 1e6,
        )

    @torch.inference_mode()
    def probe(self) -> np.ndarray:
        """Return the language model's log-probabilities (n,) for a fixed state."""
        hidden = torch.linspace(-1, 1, self._lm.llm_decoder.in_features, dtype=self._lm.dtype, device=self._lm.device)
        return self._lm.log_probabilities(hidden).cpu().numpy()

    @property
    def decoding(self) -> int:
        return self.decoder.active

    @property
    def waiting(self) -> int:
        return self.decoder.waiting

    @property
    def recordings(self) -> int:
        """Number of shapes recorded so far; 0 on a CPU."""
        return self.decoder.graphs.recordings + sum(each.graphs.recordings for each in self.flow.launchers)

    @property
    def direct(self) -> int:
        """Number of calls so far, since loading, of shapes that are not recorded; 0 on a CPU."""
        return self.decoder.graphs.direct + sum(each.graphs.direct for each in self.flow.launchers)

    def configure(self, rows: int | None = None, wait_ms: float | None = None) -> None:
        """Limit the decoder's rows, and the time in ms that rows wait for the flow."""
        if rows is not None:
            if not 1 <= rows <= self.rows:
                raise ValueError(f"the language model's cache has {self.rows} rows, not {rows}; set lm_rows")
            self.decoder.limit = rows
        if wait_ms is not None:
            if wait_ms < 0:
                raise ValueError(f"wait_ms must not be negative, not {wait_ms}")
            self._limits = replace(self._limits, wait_ms=wait_ms)
            self._flow_batcher.configure(self._limits)

    def generate(self, jobs: Sequence[tuple[Utterance, Voice]]) -> list[Mel | SpeechError]:
        """Compute a mel for each job. A job that can't be said gives its SpeechError in its place.

        Raises:
            RuntimeError: tickets are under way; their results would be lost.
        """
        if self._tickets:
            raise RuntimeError("tickets are under way; `generate` would take their results")
        results: list = [self.submit(utterance, voice) for utterance, voice in jobs]
        places = {result: index for index, result in enumerate(results) if isinstance(result, Ticket)}
        try:
            while self._tickets:
                for ticket, result in self.step():
                    results[places[ticket]] = result
        finally:
            for ticket in places:
                self.cancel(ticket)  # after a failed step no later one may find it
        return results

    def submit(
        self,
        utterance: Utterance,
        voice: Voice,
        stream: bool = False,
        said: Said = (),
        beyond: Reach | None = None,
    ) -> Ticket | SpeechError:
        """Queue an utterance; returns the planner's SpeechErrors, and InvalidInput for a part longer than a row.

        Args:
            utterance: the text and its settings.
            voice: the reference clip's.
            stream: give out the mel chunk by chunk while it is decoded; at another speed than 1, part by part.
            said: the speech tokens of each part, control tokens included. The language model reads them after the
                prompt, as if it had said them, and the draws continue at the same place. Not with `parity`.
            beyond: only chunks that reach further are made.
        """
        return guarded(self._submit, utterance, voice, stream, said, beyond)

    def _submit(self, utterance: Utterance, voice: Voice, stream: bool, said: Said, beyond: Reach | None) -> Ticket:
        if utterance.open and not (utterance.live and stream):
            raise ValueError("only a live text that is streamed may be open")
        plan = self.planner.plan(utterance, voice).within(self.decoder.cache.positions)
        if said:
            plan = plan.resumed(said)
        if any(job.positions > self.decoder.cache.positions for job in plan.jobs):
            raise InvalidInput(
                "Text, transcript and reference clip are together longer than the language model's "
                "cache allows here. Shorten the text, or use a shorter clip.",
                param="text",
                code="text_too_long_spoken",
            )
        ticket = Ticket(plan, stream, self._lead_s, self._urgent_s, self._clock)
        ticket.parts = [
            Part(
                ticket,
                self.decoder.submit(job),
                self._chunks(plan, utterance.live) if stream else None,
                chunked_end=not self._parity,
            )
            for job in plan.jobs
        ]
        if beyond is not None:
            ticket.skip(beyond)
        self._tickets[ticket] = None
        return ticket

    def _chunks(self, plan: Plan, live: bool) -> ChunkPlan | None:
        if plan.speed != 1.0:
            return None
        # Little sound in hand is enough where the next chunk comes soon.
        least = _FEW_LEAST if self._urgent_worker is not None and len(self._tickets) < _FEW else None
        if live:
            least = LIVE_LEAST
        return ChunkPlan(plan.clip_tokens, self.flow.look_ahead, least=least, grows=not live)

    def cancel(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket, None)
        for part in ticket.parts:
            self.decoder.cancel(part.row)
            if part.stretch is not None:
                for batcher in self._batchers:
                    batcher.remove(part.stretch)
                part.stretch = None
        ticket.end()

    def step(self) -> list[tuple[Ticket, Mel | MelChunk | TextWanted | SpeechError]]:
        self.decoder.step()
        results = self._decoded()
        # With no row left in the language model no other row will come, and a row would wait in vain.
        nobody_comes = not self.decoder.active and not self.decoder.waiting
        patience = _PATIENCE_S if nobody_comes else 0.0
        if self._urgent_worker is not None and self._urgent_batcher is not None:
            self._flow_batcher.configure(self._limits_now())
            for stretch, frames, deadline in self._flow_batcher.leave(self._clock() + self._urgent_s):
                self._urgent_batcher.add(stretch, frames, deadline=deadline)
            results += self._computed(self._urgent_worker, self._urgent_batcher, nobody_comes, patience)
        results += self._computed(self._flow_worker, self._flow_batcher, nobody_comes, patience)
        return results

    @property
    def _batchers(self) -> list[FlowBatcher[Stretch]]:
        """The usual batcher, and the one of urgent chunks if it is another."""
        return [each for each in (self._flow_batcher, self._urgent_batcher) if each is not None]

    def _limits_now(self) -> Limits:
        if not any(ticket.stream for ticket in self._tickets):
            return self._limits
        rows, frames = min(self._limits.rows, _BESIDE_STREAMS.rows), min(self._limits.frames, _BESIDE_STREAMS.frames)
        return replace(self._limits, rows=rows, frames=frames)

    def _computed(
        self, worker: FlowWorker, batcher: FlowBatcher[Stretch], idle: bool, patience: float
    ) -> list[tuple[Ticket, Mel | MelChunk | TextWanted | SpeechError]]:
        """Take what a worker has computed, and give it the next batch if it is free."""
        results = self._sounded(worker.collect(patience))
        if not worker.busy and (stretches := batcher.take(idle=idle)):
            worker.start(FlowBatch(stretches))
            results += self._sounded(worker.collect())
        return results

    def _decoded(self) -> list[tuple[Ticket, Mel | MelChunk | TextWanted | SpeechError]]:
        """Pass decoded tokens on to the flow; returns the tickets that end here, with their errors."""
        lost: list[tuple[Ticket, Mel | MelChunk | TextWanted | SpeechError]] = []
        for ticket in [ticket for ticket in self._tickets if ticket.joined_ns is not None]:
            if ticket.failed or ticket.mute:
                lost.append((ticket, _no_numbers() if ticket.failed else _nothing_said()))
                self.cancel(ticket)
                continue
            for stretch in ticket.due():
                self._queue(stretch)
            if ticket.dry:
                lost.append((ticket, ticket.wanted()))
                self.cancel(ticket)
        return lost

    def _queue(self, stretch: Stretch) -> None:
        """Let a stretch wait for the flow."""
        frames, deadline = self.flow.frames(stretch.row), stretch.deadline
        if not stretch.urgent or self._urgent_batcher is None:
            self._flow_batcher.add(stretch, frames, stretch.urgent, deadline)
            return
        # A client that hears nothing yet would rather wait than one that would hear a gap.
        self._urgent_batcher.add(stretch, frames, deadline=self._clock() + _FIRST_S if deadline is None else deadline)

    def _sounded(
        self, made: Mapping[Ticket, SpeechError | None]
    ) -> list[tuple[Ticket, Mel | MelChunk | TextWanted | SpeechError]]:
        """Return the results that a batch of the flow completes, and the errors of tickets that failed in it."""
        results: list = []
        for ticket, error in made.items():
            found = guarded(ticket.results) if error is None else error
            lost = isinstance(found, SpeechError)
            results += [(ticket, result) for result in ([found] if isinstance(found, SpeechError) else found)]
            if lost or ticket.finished:
                self.cancel(ticket)
        return results

    def warm_up(self) -> None:
        """Say a sentence, so that the first request is not slower than the next.

        On a GPU all shapes are recorded before: those of the language model, and those that batches of the flow can
        take with rows of up to `longest` frames. Afterwards nothing is recorded any more (see `recording`).

        Raises:
            RuntimeError: the sentence can't be said.
        """
        self.record()
        voice = Voice(
            {
                "speech_tokens": np.zeros(50, np.int32),
                "prompt_mel": np.zeros((100, 80), np.float32),
                "embedding": np.ones(192, np.float32),
            }
        )
        (result,) = self.generate([(Utterance("Warm.", "en-US"), voice)])
        if isinstance(result, SpeechError) and not isinstance(result, NothingSaid):
            raise RuntimeError("the warm-up sentence could not be said") from result

    def record(self) -> None:
        """Record all shapes on a GPU, as `warm_up` does. Does nothing on a CPU."""
        if not self.decoder.graphs.enabled and not self.flow.prepare().bucketed:
            return
        left = recording.record("language model", [self.decoder.graphs], [self.decoder.warm], self._recording_s)
        works = [
            partial(self.flow.warm_up, [shape], (True,), True)
            for shape in shapes(_URGENT, min(self._longest, _URGENT_LONGEST))
            if len(self.flow.launchers) > 1
        ]
        works += [partial(self.flow.warm_up, [shape], (True, False)) for shape in shapes(self._limits, self._longest)]
        recording.record("flow", [each.graphs for each in self.flow.launchers], works, left)


def load(
    directory: ModelDirectory,
    device: str = "cpu",
    threads: int = 1,
    dtype: torch.dtype = torch.float32,
    greedy: bool = False,
    parity: bool = False,
    live_clip: bool = False,
    **settings,
) -> CosyVoice3AcousticModel:
    """Load the acoustic model of a directory and warm it up.

    Args:
        directory: the model directory.
        device: a torch device.
        threads: torch threads of this process.
        dtype: type of the language model and the flow; the sum of the flow's steps stays float32.
        greedy: always take the likeliest token, whatever the seed.
        parity, live_clip: see `CosyVoice3Engine`.
        settings: arguments of CosyVoice3AcousticModel.

    Raises:
        WeightsError: as `Stored.load`.
    """
    torch.set_num_threads(threads)
    lm = speech_lm.load(directory, device, dtype)
    sampling = None if greedy else directory.numbers.llm.sampling
    planner = Planner(TextTokenizer(directory), sampling, lm.speech_tokens, parity, live_clip)
    model = CosyVoice3AcousticModel(lm, flow.load(directory, device, dtype), planner, parity=parity, **settings)
    for language in ("zh", "en", "ja"):
        warm(language)
    model.warm_up()
    return model


class NothingSaid(InternalError):
    """The language model ended before its first token."""


def _nothing_said() -> NothingSaid:
    return NothingSaid(
        "The speech model made no sound of this text. Try another seed, or word it differently.",
        param="text",
        code="nothing_said",
    )


def _no_numbers() -> NotFinite:
    return NotFinite(
        "The language model gave no numbers (NaN or infinity). The weights in llm.pt are damaged, or the dtype is too "
        "narrow for them: run `python -m engines.cosyvoice3 check` on the model directory, then try dtype float32.",
        code="model_not_finite",
    )
