"""The acoustic model behind the engine contract takes utterances at any step and makes mels, whole or in chunks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np
import torch

from engines.contract import Mel, MelChunk, Said, Utterance, Voice
from engines.cosyvoice3 import flow, speech_lm
from engines.cosyvoice3.chunks import ChunkPlan
from engines.cosyvoice3.decoder import Decoder
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.finite import NotFinite
from engines.cosyvoice3.flow import Flow
from engines.cosyvoice3.flow_batches import FlowBatcher, Limits
from engines.cosyvoice3.flow_worker import FlowBatch, FlowWorker
from engines.cosyvoice3.guard import guarded
from engines.cosyvoice3.plan import Plan, Planner, warm
from engines.cosyvoice3.speech_lm import SpeechLm
from engines.cosyvoice3.ticket import Part, Stretch, Ticket
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.errors import InternalError, InvalidInput, SpeechError

_log = logging.getLogger(__name__)
_WARM = (*range(320, 1025, 64), 1152, 1280)  #: frames of clip and speech together
_PATIENCE_S = 0.002  #: wait of a step for the flow if there is no other work; a new request may wait as long


class CosyVoice3AcousticModel:
    """An `engines.contract.ContinuousAcousticModel` of the language model and the flow.

    Each step computes one token for every row of the language model. If enough rows are decoded or have waited long
    enough, it computes a batch of the flow as well. The first chunk of a stream goes through the flow as soon as its
    last token is known, before all other rows (`FlowBatcher`). A Mel's arrays are `mel` float32 (80, n), and `parts`
    int64, the frames of each part of the text; they add up to n. A MelChunk's arrays are the same, for one part.

    Args:
        planner: reads utterances.
        rows, positions: size of the decoder's cache, which is allocated here and never grows. A part without a free
            row waits.
        parity: see `CosyVoice3Engine`.
        limits: limits of the flow's batches.
        beside: True: the flow computes in a thread and on a stream of its own, and steps go on meanwhile. None: only on
            a GPU, because on a CPU both would only share the cores.
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
    ) -> None:
        self.planner = planner
        self.decoder = Decoder(lm, rows, positions)
        self._lm = lm
        self.rows = rows
        self.flow = flow
        self._limits = limits
        self._parity = parity
        self._flow_batcher: FlowBatcher[Stretch] = FlowBatcher(limits)
        self._flow_worker = FlowWorker(flow, lm.device.type == "cuda" if beside is None else beside)
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

    def submit(self, utterance: Utterance, voice: Voice, stream: bool = False, said: Said = ()) -> Ticket | SpeechError:
        """Queue an utterance; returns the planner's SpeechErrors, and InvalidInput for a part longer than a row.

        Args:
            utterance: the text and its settings.
            voice: the reference clip's.
            stream: give out the mel chunk by chunk while it is decoded; at another speed than 1, part by part.
            said: the speech tokens of each part, control tokens included. The language model reads them after the
                prompt, as if it had said them, and the draws continue at the same place. Not with `parity`.
        """
        return guarded(self._submit, utterance, voice, stream, said)

    def _submit(self, utterance: Utterance, voice: Voice, stream: bool, said: Said) -> Ticket:
        plan = self.planner.plan(utterance, voice)
        if said:
            plan = plan.resumed(said)
        if any(job.positions > self.decoder.cache.positions for job in plan.jobs):
            raise InvalidInput(
                "Text, transcript and reference clip are together longer than the language model's "
                "cache allows here. Shorten the text, or use a shorter clip.",
                param="text",
                code="text_too_long_spoken",
            )
        ticket = Ticket(plan, stream)
        ticket.parts = [
            Part(ticket, self.decoder.submit(job), self._chunks(plan) if stream else None, chunked_end=not self._parity)
            for job in plan.jobs
        ]
        self._tickets[ticket] = None
        return ticket

    def _chunks(self, plan: Plan) -> ChunkPlan | None:
        return ChunkPlan(plan.clip_tokens, self.flow.look_ahead) if plan.speed == 1.0 else None

    def cancel(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket, None)
        for part in ticket.parts:
            self.decoder.cancel(part.row)
            if part.stretch is not None:
                self._flow_batcher.remove(part.stretch)
                part.stretch = None
        ticket.end()

    def step(self) -> list[tuple[Ticket, Mel | MelChunk | SpeechError]]:
        self.decoder.step()
        results = self._decoded()
        # With no row left in the language model no other row will come, and a row would wait in vain.
        nobody_comes = not self.decoder.active and not self.decoder.waiting
        results += self._sounded(self._flow_worker.collect(_PATIENCE_S if nobody_comes else 0.0))
        if not self._flow_worker.busy and (stretches := self._flow_batcher.take(idle=nobody_comes)):
            self._flow_worker.start(FlowBatch(stretches))
            results += self._sounded(self._flow_worker.collect())
        return results

    def _decoded(self) -> list[tuple[Ticket, Mel | MelChunk | SpeechError]]:
        """Pass decoded tokens on to the flow; returns the tickets that end here, with their errors."""
        lost: list[tuple[Ticket, Mel | MelChunk | SpeechError]] = []
        # Rows join in the order of their tickets: after the first ticket without a row, no ticket has any tokens.
        for ticket in list(takewhile(lambda ticket: ticket.joined_ns is not None, self._tickets)):
            if ticket.failed or ticket.mute:
                lost.append((ticket, _no_numbers() if ticket.failed else _nothing_said()))
                self.cancel(ticket)
                continue
            for stretch in ticket.due():
                self._flow_batcher.add(stretch, self.flow.frames(stretch.row), stretch.first)
        return lost

    def _sounded(self, made: Mapping[Ticket, SpeechError | None]) -> list[tuple[Ticket, Mel | MelChunk | SpeechError]]:
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

        On a GPU every shape of the language model is recorded before, and the flow's shapes for one and two rows of up
        to 25 s of clip and speech together. Other shapes are recorded on first use.

        Raises:
            RuntimeError: the sentence can't be said.
        """
        if graphs := self.decoder.warm():
            _log.info("%d shapes of the language model are recorded", graphs)
        self.flow.warm_up([(rows, frames) for frames in _WARM for rows in (1, 2)], chunked=(True, False))
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


def load(
    directory: ModelDirectory,
    device: str = "cpu",
    threads: int = 1,
    dtype: torch.dtype = torch.float32,
    greedy: bool = False,
    parity: bool = False,
    **settings,
) -> CosyVoice3AcousticModel:
    """Load the acoustic model of a directory and warm it up.

    Args:
        directory: the model directory.
        device: a torch device.
        threads: torch threads of this process.
        dtype: type of the language model and the flow; the sum of the flow's steps stays float32.
        greedy: always take the likeliest token, whatever the seed.
        parity: see `CosyVoice3Engine`.
        settings: arguments of CosyVoice3AcousticModel.

    Raises:
        WeightsError: as `Stored.load`.
    """
    torch.set_num_threads(threads)
    lm = speech_lm.load(directory, device, dtype)
    sampling = None if greedy else directory.numbers.llm.sampling
    planner = Planner(TextTokenizer(directory), sampling, lm.speech_tokens, parity)
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
