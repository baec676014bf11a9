"""A ticket follows an utterance: its parts pass through the language model, then the flow, whole or in chunks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from engines.contract import Arrays, Mel, MelChunk, Phase, Reach, Said, TextWanted
from engines.cosyvoice3.chunks import ChunkPlan
from engines.cosyvoice3.decoder import Row
from engines.cosyvoice3.flow import FlowRow
from engines.cosyvoice3.interleaving import wanted
from engines.cosyvoice3.plan import Plan

LM_DECODE = "LM_DECODE"
FRAMES_PER_SECOND = 50
_HELD_BACK_S = 0.16  #: of an unfinished part that the vocoder can't sound yet


@dataclass(eq=False)
class Ticket:
    """An `engines.contract.Ticket`. Its parts are the plan's, each with a row of the decoder.

    If streamed, its first part is made chunk by chunk while it is decoded. A later part is cut into chunks only after
    all parts before it are on their way through the flow. Earlier cuts would give no earlier sound, but cost time,
    because the flow computes each chunk from the part's beginning. At another speed than 1 a part is a single chunk,
    because it is stretched as a whole.

    A chunk after the first is made only when what was given out lasts no longer than `lead_s`. By then more tokens may
    have been said: they share the chunk, and the flow computes the part's beginning less often.

    Args:
        lead_s: seconds of sound that a client still has when the next chunk is begun; infinite: begin it at once.
        urgent_s: with less than this, the chunk goes before others.
        clock: returns monotonic seconds.
    """

    plan: Plan
    stream: bool = False
    lead_s: float = math.inf
    urgent_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    parts: list[Part] = field(default_factory=list)
    batch_id: str | None = None
    flows: list[Phase] = field(default_factory=list)  #: the flow batches in which its parts were computed
    given: int = 0  #: number of parts that were given out completely
    heard_until: float | None = (
        None  #: by the clock, the time at which all that was given out is heard, if played at once
    )
    _last: tuple[int | None, int | None] = (None, None)  # joined_ns and batch_size, once it has ended

    @property
    def joined_ns(self) -> int | None:
        if not self.parts:
            return self._last[0]
        return min((part.row.joined_ns for part in self.parts if part.row.joined_ns is not None), default=None)

    @property
    def batch_size(self) -> int | None:
        """Mean number of rows in the language model's steps, over the steps of its parts."""
        if not self.parts:
            return self._last[1]
        steps = sum(part.row.steps for part in self.parts)
        return max(1, round(sum(part.row.batch_sizes for part in self.parts) / steps)) if steps else None

    @property
    def said(self) -> Said:
        """Tokens of each part so far, for `submit`; () once it has ended, and with `parity`, which can't resume."""
        if any(part.row.job.sampler.on_host for part in self.parts):
            return ()
        return tuple(tuple(part.row.picked) for part in self.parts)

    @property
    def finished(self) -> bool:
        return all(part.complete for part in self.parts)

    @property
    def mute(self) -> bool:
        """True if a part ended before its first token."""
        return any(part.row.done and not part.row.tokens and not part.row.dry for part in self.parts)

    @property
    def dry(self) -> bool:
        """True if its text ran out, and all that was said of it is given out as far as it can be sounded."""
        if not self.parts or not self.parts[-1].row.dry:
            return False
        return self.given == len(self.parts) - 1 and self.parts[-1].stretch is None and not self.parts[-1].fresh

    def wanted(self) -> TextWanted:
        """Return the end of a dry ticket."""
        job = self.parts[-1].row.job
        assert job.live is not None, "only live text can run out"
        return TextWanted(self.said, wanted(len(job.text), len(job.prompt_tokens), job.live))

    def skip(self, beyond: Reach) -> None:
        """Take what reaches as far as `beyond` as given out: it is not made again."""
        part, seconds, complete = beyond
        self.given = min(part + complete, len(self.parts) - 1)
        for each in self.parts[: self.given]:
            each.complete = True
        if self.given == part and not complete:
            self.parts[part].skip(seconds)

    @property
    def failed(self) -> bool:
        """True if the language model gave NaN or infinity for a part."""
        return any(part.row.failed for part in self.parts)

    @property
    def left_s(self) -> float:
        """Seconds of sound that the client has not heard yet; negative while it hears nothing."""
        return 0.0 if self.heard_until is None else self.heard_until - self.clock()

    def due(self) -> list[Stretch]:
        """Return the stretches that the flow can make now from the parts' tokens. Each is returned once."""
        stretches, turn = [], True
        for part in self.parts:
            if stretch := part.due(turn):
                stretches.append(stretch)
            turn = turn and part.closing
        return stretches

    def results(self) -> list[Mel | MelChunk]:
        """Return the results that can be given out now. Each is returned once."""
        if self.stream:
            return self._chunks()
        return [self._mel()] if self.finished else []

    def end(self) -> None:
        """Keep the values for its span and free the rest.

        Parts refer back to their ticket, so whole mels would otherwise wait for the garbage collector.
        """
        if self.parts:
            self._last = self.joined_ns, self.batch_size
            self.parts, self.flows = [], []

    def _mel(self) -> Mel:
        """Join all parts, one after the other."""
        return Mel(*_arrays([part.mel for part in self.parts]), self._phases())

    def _chunks(self) -> list[Mel | MelChunk]:
        """Return chunks in the order of the audio: a part's only after those before it were given out completely."""
        chunks: list[Mel | MelChunk] = []
        while self.given < len(self.parts) and (part := self.parts[self.given]).fresh:
            last = part.complete and self.given == len(self.parts) - 1
            phases = self._phases() if last else ()
            chunks.append(MelChunk(*_arrays([part.mel]), self.given, part.complete, last, phases, self.said))
            part.fresh = False
            self._hear(part.heard_s())
            self.given += part.complete
        return chunks

    def _hear(self, seconds: float) -> None:
        """Note that so many more seconds were given out. They are heard after what is not heard yet, or at once."""
        now = self.clock()
        self.heard_until = max(now, now if self.heard_until is None else self.heard_until) + seconds

    def _phases(self) -> tuple[Phase, ...]:
        return self.plan.phase, self._decoding(), *self.flows

    def _decoding(self) -> Phase:
        """Describe the time from the first part's join of the batch until the last part's end."""
        rows = [part.row for part in self.parts]
        start = self.joined_ns
        ended = [row.ended_ns for row in rows if row.ended_ns is not None]
        assert start is not None and len(ended) == len(rows), "all rows have joined, and left"
        end = max(ended)
        size = self.batch_size
        tokens = sum(len(row.picked) - len(row.job.said) for row in rows)
        return Phase(
            LM_DECODE,
            start,
            end,
            {
                "batch.wait_ms": round((start - min(row.submitted_ns for row in rows)) / 1e6, 3),
                **({} if size is None else {"batch.size": size}),
                "lm.steps": sum(row.steps for row in rows),
                "lm.tokens_per_second": round(tokens / max(1e-9, (end - start) / 1e9), 3),
            },
        )


@dataclass(eq=False)
class Stretch:
    """A part's speech from its beginning to the end of a chunk, or all of it: the content of a flow row."""

    part: Part
    row: FlowRow
    urgent: bool  #: True: a client hears nothing before it, or soon nothing
    deadline: float | None = None  #: by the ticket's clock, the time at which a client hears nothing without it
    due_ns: int = field(default_factory=time.time_ns)
    frames: int = 0  #: frames that it added to the part's mel

    @property
    def ticket(self) -> Ticket:
        return self.part.ticket

    @property
    def wanted(self) -> bool:
        """True while its part waits for it: the ticket was not cancelled."""
        return self.part.stretch is self


@dataclass(eq=False)
class Part:
    """A part of a ticket's text: a row of the decoder, then a row of the flow, once or for each chunk.

    Args:
        chunks: the plan of its cuts; None: it is not cut.
        chunked_end: True: its last chunk attends by chunks like those before it. It has no effect without `chunks`.
    """

    ticket: Ticket
    row: Row
    chunks: ChunkPlan | None = None
    chunked_end: bool = True
    stretch: Stretch | None = None  #: the stretch that waits for the flow, or is in it
    complete: bool = False
    fresh: bool = False  #: True: there is more mel than was given out
    _made: torch.Tensor | None = None  # mel so far, (80, n) float32
    _heard_s: float = 0.0  # seconds of it that were given out and can be heard

    @property
    def mel(self) -> torch.Tensor:
        """The mel so far, (80, n) float32 at the ticket's speed."""
        assert self._made is not None, "see `fresh`"
        return _at_speed(self._made, self.ticket.plan.speed)

    @property
    def closing(self) -> bool:
        """True if all of it is made, or on its way through the flow."""
        return self.complete or self.stretch is not None and self.stretch.row.final

    def skip(self, seconds: float) -> None:
        """Make no chunk that ends within so many seconds, which were given out before."""
        speed = self.ticket.plan.speed
        self._heard_s = max(0.0, seconds - _HELD_BACK_S)
        if self.chunks is not None:
            self.chunks.skip(round(seconds * speed * FRAMES_PER_SECOND) // 2)

    def heard_s(self) -> float:
        """Return the seconds that can be heard more than at the last call."""
        frames = 0 if self._made is None else self._made.shape[1]
        heard = max(0.0, frames / FRAMES_PER_SECOND / self.ticket.plan.speed - (0 if self.complete else _HELD_BACK_S))
        more, self._heard_s = heard - self._heard_s, heard
        return more

    def due(self, turn: bool) -> Stretch | None:
        """Return the stretch that can be made now, or None. `turn` allows chunks as well as the whole part."""
        said, final = len(self.row.tokens), self.row.done and not self.row.dry
        if self.stretch is not None or self.complete or not said:
            return None
        left = self.ticket.left_s
        # Tokens are only ever added: the whole begins with the tokens of a chunk.
        count = said if final else None
        soon = left <= self.ticket.lead_s or self.row.dry  # a dry row says no more that the chunk could take along
        if count is None and self.chunks is not None and turn and soon:
            count = self.chunks.reached(said)
        if count is None:
            return None
        chunked = self.chunks is not None and (self.chunked_end or not final)
        first = self.ticket.heard_until is None and self is self.ticket.parts[self.ticket.given]
        urgent = self.ticket.stream and (first or turn and left < self.ticket.urgent_s)
        row = self.ticket.plan.row(self.row.tokens[:count], chunked, final)
        self.stretch = Stretch(self, row, urgent, self.ticket.heard_until if turn else None)
        return self.stretch

    def sounded(self, mel: torch.Tensor) -> int:
        """Take the mel (80, n) of the stretch that was on its way; returns the number of new frames.

        Frames that existed before stay, because the end may be computed otherwise (`chunked_end`).
        """
        assert self.stretch is not None, "it comes from the stretch that was on its way"
        before = 0 if self._made is None else self._made.shape[1]
        self._made = mel if self._made is None else torch.cat((self._made, mel[:, before:]), dim=1)
        self.complete, self.fresh, self.stretch = self.stretch.row.final, True, None
        return self._made.shape[1] - before


def _arrays(mels: list[torch.Tensor]) -> tuple[Arrays, float]:
    """Return a Mel's arrays and its seconds."""
    whole = torch.cat(mels, dim=1).numpy()
    return (
        {"mel": whole, "parts": np.array([mel.shape[1] for mel in mels], np.int64)},
        whole.shape[1] / FRAMES_PER_SECOND,
    )


def _at_speed(mel: torch.Tensor, speed: float) -> torch.Tensor:
    """Stretch the mel in time, linearly between frames, as the official code does; the pitch stays."""
    if speed == 1.0:
        return mel
    return F.interpolate(mel[None], size=max(1, int(mel.shape[1] / speed)), mode="linear")[0]
