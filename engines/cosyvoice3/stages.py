"""The acoustic model and the vocoder behind the engine contract: lists of requests in, lists of results out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from engines.contract import Mel, Utterance, Voice
from engines.cosyvoice3 import flow, hift, noise, speech_lm
from engines.cosyvoice3.decoder import Decoder, Row
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.flow_batches import FlowBatcher, Limits, batches
from engines.cosyvoice3.guard import guarded
from engines.cosyvoice3.plan import Planner, warm
from engines.cosyvoice3.ticket import FlowBatch, Part, Ticket
from engines.cosyvoice3.tokenizer import TextTokenizer
from speech.errors import InternalError, InvalidInput, SpeechError

_log = logging.getLogger(__name__)


class CosyVoice3AcousticModel:
    """An `engines.contract.ContinuousAcousticModel`: language model and flow.

    Each step is one token for every row of the language model, and then, where enough rows have come out of it or
    have waited long enough, one batch of the flow. A Mel's arrays: `mel` float32 (80, n), and `parts` int64, the frames
    of each part of the text; they add up to n.

    Args:
        dtype: of language model and flow; what the flow's steps add up stays float32.
        rows, positions: of the decoder's cache, which is allocated here and never grows: who finds no row waits.
        greedy: always the likeliest token, whatever the seed.
        parity: see `CosyVoice3Engine`.
        limits: of the flow's batches.
    """

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1,
                 dtype: torch.dtype = torch.float32, rows: int = 8, positions: int = 3072, greedy: bool = False,
                 parity: bool = False, limits: Limits = Limits()) -> None:
        torch.set_num_threads(threads)
        numbers = directory.numbers
        lm = speech_lm.load(directory, device, dtype)
        self.planner = Planner(TextTokenizer(directory), None if greedy else numbers.llm.sampling, lm.speech_tokens,
                               parity)
        self.decoder = Decoder(lm, rows, positions)
        self.rows = rows
        self.flow = flow.load(directory, device, dtype)
        self._limits = limits
        self._flow_batcher: FlowBatcher[Part] = FlowBatcher(limits)
        self._parts: dict[Row, Part] = {}  # of the tickets under way
        self._warm_up()
        _log.info("the language model's cache has %d rows of %d positions: %.0f MB", rows, positions,
                  self.decoder.cache.bytes / 1e6)

    @property
    def decoding(self) -> int:
        return self.decoder.active

    @property
    def waiting(self) -> int:
        return self.decoder.waiting

    def configure(self, rows: int | None = None, wait_ms: float | None = None) -> None:
        """`rows`: of the decoder; `wait_ms`: of the flow's rows."""
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
        """A mel for each job. One that can't be said gives its SpeechError in its place.

        RuntimeError where tickets are under way: their results would be lost.
        """
        if self._parts:
            raise RuntimeError("tickets are under way; `generate` would take their results")
        results: list = [self.submit(utterance, voice) for utterance, voice in jobs]
        places = {result: index for index, result in enumerate(results) if isinstance(result, Ticket)}
        try:
            while self._parts:
                for ticket, result in self.step():
                    results[places[ticket]] = result
        finally:
            for ticket in places:
                self.cancel(ticket)  # after a failed step nobody else may find it
        return results

    def submit(self, utterance: Utterance, voice: Voice) -> Ticket | SpeechError:
        """SpeechErrors: the planner's, and InvalidInput for what is longer than a row."""
        return guarded(self._submit, utterance, voice)

    def _submit(self, utterance: Utterance, voice: Voice) -> Ticket:
        plan = self.planner.plan(utterance, voice)
        if any(job.positions > self.decoder.cache.positions for job in plan.jobs):
            raise InvalidInput("Text, transcript and reference clip are together longer than the language model's "
                               "cache allows here. Shorten the text, or use a shorter clip.", param="text",
                               code="text_too_long_spoken")
        ticket = Ticket(plan)
        ticket.parts = [Part(ticket, self.decoder.submit(job)) for job in plan.jobs]
        self._parts.update((part.row, part) for part in ticket.parts)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        for part in ticket.parts:
            self._parts.pop(part.row, None)
            self.decoder.cancel(part.row)
            self._flow_batcher.remove(part)
        ticket.end()

    def step(self) -> list[tuple[Ticket, Mel | SpeechError]]:
        finished = self._decoded(self.decoder.step())
        # With nobody left in the language model nobody else is coming, and a row would wait for nothing.
        nobody_comes = not self.decoder.active and not self.decoder.waiting
        if parts := self._flow_batcher.take(idle=nobody_comes):
            finished += self._sounded(FlowBatch(parts))
        return finished

    def _decoded(self, ended: list[Row]) -> list[tuple[Ticket, SpeechError]]:
        """Hand rows that have ended on to the flow; returns the tickets that go no further."""
        mute = []
        for row in ended:
            part = self._parts.get(row)
            if part is None:
                continue  # its ticket has just ended with another part
            if row.tokens:
                self._flow_batcher.add(part, self.flow.frames(part.flow_row))
                continue
            self.cancel(part.ticket)
            mute.append((part.ticket, NothingSaid(
                "The speech model made no sound of this text. Try another seed, or word it differently.",
                param="text", code="nothing_said")))
        return mute

    def _sounded(self, batch: FlowBatch) -> list[tuple[Ticket, Mel | SpeechError]]:
        """Compute a batch of the flow; returns the tickets that are finished by it, or failed in it."""
        mels = guarded(self._mels, batch.parts)
        if isinstance(mels, SpeechError):
            # The flow does not say for which row it failed: each alone, so that only the bad one does.
            mels = [mels] if len(batch.parts) == 1 else [_first(guarded(self._mels, [part])) for part in batch.parts]
        batch.end(mels)
        ended = {}
        for part, mel in zip(batch.parts, mels, strict=True):
            if isinstance(mel, SpeechError):
                ended[part.ticket] = mel
            elif part.ticket.finished:
                ended.setdefault(part.ticket, guarded(part.ticket.mel))
        for ticket in ended:
            self.cancel(ticket)
        return list(ended.items())

    def _mels(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        return [mel.cpu() for mel in self.flow([part.flow_row for part in parts])]

    def _warm_up(self) -> None:
        for language in ("zh", "en", "ja"):
            warm(language)
        voice = Voice({"speech_tokens": np.zeros(50, np.int32), "prompt_mel": np.zeros((100, 80), np.float32),
                       "embedding": np.ones(192, np.float32)})
        result, = self.generate([(Utterance("Warm.", "en-US"), voice)])
        if isinstance(result, SpeechError) and not isinstance(result, NothingSaid):
            raise RuntimeError("the warm-up sentence could not be said") from result


class NothingSaid(InternalError):
    """The language model ended before its first token."""


def _first(found: list[torch.Tensor] | SpeechError) -> torch.Tensor | SpeechError:
    return found if isinstance(found, SpeechError) else found[0]


class CosyVoice3Vocoder:
    """An `engines.contract.Vocoder`, 24 kHz. On a GPU parts of like length are computed together, on a CPU singly."""

    def __init__(self, directory: ModelDirectory, device: str = "cpu", threads: int = 1,
                 limits: Limits = Limits()) -> None:
        torch.set_num_threads(threads)
        self._network = hift.load(directory, device)
        self._noise = noise.Excitation(directory.numbers)
        self._limits = Limits(rows=1) if device.startswith("cpu") else limits
        for frames in (100, 200):
            self._vocode([torch.zeros(80, frames)])

    def vocode(self, mels: Sequence[Mel]) -> list[np.ndarray | SpeechError]:
        """Mono float32 (n,) within ±0.99 for each Mel: its parts, one behind the other."""
        split = [guarded(_parts, mel) for mel in mels]
        parts = [part for found in split if isinstance(found, list) for part in found]
        try:
            sounds = iter(self._vocode(parts))
        except Exception:
            if len(mels) == 1:
                raise
            _log.error("a batch of %d could not be vocoded; trying its members one by one", len(mels))
            return [guarded(lambda mel: self.vocode([mel])[0], mel) for mel in mels]
        return [found if isinstance(found, SpeechError) else np.concatenate([next(sounds) for _ in found])
                for found in split]

    def _vocode(self, parts: list[torch.Tensor]) -> list[np.ndarray]:
        sounds: list[np.ndarray] = [np.zeros(0, np.float32)] * len(parts)
        for members in batches([part.shape[1] for part in parts], self._limits):
            for member, audio in zip(members, self._network([parts[i] for i in members], self._noise), strict=True):
                sounds[member] = audio.cpu().numpy()
        return sounds


def _parts(mel: Mel) -> list[torch.Tensor]:
    whole, frames = torch.tensor(mel.arrays["mel"]), mel.arrays["parts"].tolist()
    if whole.ndim != 2 or whole.shape[0] != 80 or sum(frames) != whole.shape[1] or min(frames) < 1:
        raise InternalError("The acoustic features do not have the form that the vocoder reads.")
    return list(whole.split(frames, dim=1))
