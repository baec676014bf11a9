"""What goes through the flow at a time: stretches of parts of tickets, in batches, each with what its span will say."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from engines.contract import Phase
from engines.cosyvoice3.flow import STEPS, FlowRow
from speech.errors import SpeechError

if TYPE_CHECKING:
    from engines.cosyvoice3.ticket import Part, Ticket

FLOW_MATCHING = "FLOW_MATCHING"


@dataclass(eq=False)
class Stretch:
    """A part's speech from its beginning to the end of a chunk, or all of it: what a row of the flow is made of."""

    part: Part
    row: FlowRow
    first: bool  #: a client hears nothing before it
    due_ns: int = field(default_factory=time.time_ns)
    frames: int = 0  #: that it added to what there was of the part

    @property
    def ticket(self) -> Ticket:
        return self.part.ticket


class FlowBatch:
    """Stretches whose flow is computed together, and when that was. Times in ns since the epoch."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.id = secrets.token_hex(8)
        self.stretches = stretches
        self.start_ns = self.end_ns = time.time_ns()

    @property
    def tickets(self) -> list[Ticket]:
        return list(dict.fromkeys(stretch.ticket for stretch in self.stretches))

    def end(self, results: Sequence[torch.Tensor | SpeechError]) -> None:
        """`results`: each stretch's mel from the part's beginning, or why there is none."""
        self.end_ns = time.time_ns()
        for stretch, result in zip(self.stretches, results, strict=True):
            if not isinstance(result, SpeechError):
                stretch.frames = stretch.part.sounded(result)
        for ticket in self.tickets:
            ticket.batch_id = self.id
            ticket.flows.append(self._phase(ticket))

    def _phase(self, ticket: Ticket) -> Phase:
        """As `ticket` saw it."""
        own = [stretch for stretch in self.stretches if stretch.ticket is ticket]
        return Phase(
            FLOW_MATCHING,
            self.start_ns,
            self.end_ns,
            {
                "batch.id": self.id,
                "batch.size": len(self.stretches),
                "batch.wait_ms": round((self.start_ns - min(stretch.due_ns for stretch in own)) / 1e6, 3),
                "flow.steps": STEPS,
                "flow.frames": sum(stretch.frames for stretch in own),
            },
        )
