"""One utterance on its way: its parts in the language model, then in the flow, and what its spans will say of both."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from engines.contract import Mel, Phase
from engines.cosyvoice3.decoder import Row
from engines.cosyvoice3.flow import STEPS, FlowRow
from engines.cosyvoice3.plan import Plan
from speech.errors import SpeechError

LM_DECODE, FLOW_MATCHING = "LM_DECODE", "FLOW_MATCHING"
FRAMES_PER_SECOND = 50


@dataclass(eq=False)
class Ticket:
    """An `engines.contract.Ticket`. Its parts are the plan's, each with a row of the decoder."""

    plan: Plan
    parts: list[Part] = field(default_factory=list)
    batch_id: str | None = None
    flows: list[FlowBatch] = field(default_factory=list)  #: those that had a part of it, in order
    _last: tuple[int | None, int | None] = (None, None)  # joined_ns and batch_size, once it has ended

    @property
    def joined_ns(self) -> int | None:
        if not self.parts:
            return self._last[0]
        return min((part.row.joined_ns for part in self.parts if part.row.joined_ns is not None), default=None)

    @property
    def batch_size(self) -> int | None:
        """Rows in the language model's steps, on average over the steps of its parts."""
        if not self.parts:
            return self._last[1]
        steps = sum(part.row.steps for part in self.parts)
        return max(1, round(sum(part.row.batch_sizes for part in self.parts) / steps)) if steps else None

    @property
    def finished(self) -> bool:
        return all(part.mel is not None for part in self.parts)

    def end(self) -> None:
        """Keep what its span will say and let go of the rest. Parts and flow batches refer back to their ticket: whole
        mels would wait for the garbage collector."""
        if self.parts:
            self._last = self.joined_ns, self.batch_size
            self.parts, self.flows = [], []

    def mel(self) -> Mel:
        """All parts, one behind the other. Only of one that is finished."""
        mels = [_at_speed(part.mel, self.plan.speed) for part in self.parts]
        whole = torch.cat(mels, dim=1).numpy()
        return Mel({"mel": whole, "parts": np.array([mel.shape[1] for mel in mels], np.int64)},
                   whole.shape[1] / FRAMES_PER_SECOND,
                   (self.plan.phase, self._decoding(), *(batch.phase(self) for batch in self.flows)))

    def _decoding(self) -> Phase:
        """From when the first part joined the batch until the last had left it."""
        rows = [part.row for part in self.parts]
        start, end = self.joined_ns, max(row.ended_ns for row in rows)
        tokens = sum(len(row.job.sampler.picked) for row in rows)
        return Phase(LM_DECODE, start, end, {
            "batch.wait_ms": round((start - min(row.submitted_ns for row in rows)) / 1e6, 3),
            "batch.size": self.batch_size,
            "lm.steps": sum(row.steps for row in rows),
            "lm.tokens_per_second": round(tokens / max(1e-9, (end - start) / 1e9), 3)})


@dataclass(eq=False)
class Part:
    """A part of a ticket's text: a row of the decoder, then one of the flow, at last `mel` (80, n) float32."""

    ticket: Ticket
    row: Row
    mel: torch.Tensor | None = None

    @property
    def flow_row(self) -> FlowRow:
        return self.ticket.plan.row(self.row.tokens)


class FlowBatch:
    """Parts whose flow is computed together, and when that was. Times in ns since the epoch."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.id = secrets.token_hex(8)
        self.parts = parts
        self.start_ns = self.end_ns = time.time_ns()

    def end(self, results: Sequence[torch.Tensor | SpeechError]) -> None:
        """`results`: each part's."""
        self.end_ns = time.time_ns()
        for part, result in zip(self.parts, results, strict=True):
            if not isinstance(result, SpeechError):
                part.mel = result
            part.ticket.batch_id = self.id
            if self not in part.ticket.flows:
                part.ticket.flows.append(self)

    def phase(self, ticket: Ticket) -> Phase:
        """As `ticket` saw it."""
        own = [part for part in self.parts if part.ticket is ticket]
        return Phase(FLOW_MATCHING, self.start_ns, self.end_ns, {
            "batch.id": self.id, "batch.size": len(self.parts),
            "batch.wait_ms": round((self.start_ns - min(part.row.ended_ns for part in own)) / 1e6, 3),
            "flow.steps": STEPS, "flow.frames": sum(part.mel.shape[1] for part in own)})


def _at_speed(mel: torch.Tensor, speed: float) -> torch.Tensor:
    """Squeezed in time, linearly between frames; the pitch stays. As the official code does it."""
    if speed == 1.0:
        return mel
    return F.interpolate(mel[None], size=max(1, int(mel.shape[1] / speed)), mode="linear")[0]
