"""Computes the flow's batches, in a thread of its own beside the language model, or in the caller's."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

from engines.contract import Phase
from engines.cosyvoice3.flow import STEPS, Flow
from engines.cosyvoice3.guard import guarded
from engines.cosyvoice3.ticket import Stretch, Ticket
from speech.errors import SpeechError

FLOW_MATCHING = "FLOW_MATCHING"


class FlowBatch:
    """Stretches whose flow is computed together, and the times of that in ns since the epoch."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.id = secrets.token_hex(8)
        self.stretches = stretches
        self.start_ns = self.end_ns = time.time_ns()

    @property
    def wanted(self) -> list[Stretch]:
        """The stretches that were not cancelled meanwhile."""
        return [stretch for stretch in self.stretches if stretch.wanted]

    def end(self, results: Sequence[torch.Tensor | SpeechError]) -> dict[Ticket, SpeechError | None]:
        """Give the results to the stretches.

        Args:
            results: each stretch's mel from the part's beginning, or the error instead of it.

        Returns:
            The tickets that took part and are still wanted, with the error of a ticket that failed, else None.
        """
        found = [pair for pair in zip(self.stretches, results, strict=True) if pair[0].wanted]
        tickets: dict[Ticket, SpeechError | None] = dict.fromkeys(stretch.ticket for stretch, _ in found)
        for stretch, result in found:
            if isinstance(result, SpeechError):
                tickets[stretch.ticket] = result
            else:
                stretch.frames = stretch.part.sounded(result)
        for ticket in tickets:
            ticket.batch_id = self.id
            ticket.flows.append(self._phase([stretch for stretch, _ in found if stretch.ticket is ticket]))
        return tickets

    def _phase(self, own: list[Stretch]) -> Phase:
        """Describe the batch as a phase of the ticket that owns these stretches."""
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


class FlowWorker:
    """A worker that computes one batch at a time.

    Args:
        flow: the flow model; on a GPU it has a stream of its own.
        beside: True: compute in a thread, so that the language model's steps go on. False: `start` computes.
        urgent: see `Flow.launch`.
    """

    def __init__(self, flow: Flow, beside: bool, urgent: bool = False) -> None:
        self._flow = flow
        self._urgent = urgent
        # The thread ends with the worker: it waits for work, and the executor ends it when it is collected itself.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flow") if beside else None
        self._batch: FlowBatch | None = None
        self._results: Future[list[torch.Tensor | SpeechError]] = Future()

    @property
    def busy(self) -> bool:
        """True while a batch was started and not yet collected."""
        return self._batch is not None

    def start(self, batch: FlowBatch) -> None:
        if self._batch is not None:
            raise RuntimeError("the flow computes one batch at a time")
        self._batch = batch
        if self._thread is not None:
            self._results = self._thread.submit(self._computed, batch)
        else:
            self._results = Future()
            self._results.set_result(self._computed(batch))

    def collect(self, wait_s: float = 0.0) -> dict[Ticket, SpeechError | None]:
        """Return the result of `FlowBatch.end` once a batch is computed; {} if none is after `wait_s` seconds."""
        if self._batch is None:
            return {}
        if not self._results.done() and (not wait_s or wait((self._results,), wait_s).not_done):
            return {}
        batch, self._batch = self._batch, None
        return batch.end(self._results.result())

    def _computed(self, batch: FlowBatch) -> list[torch.Tensor | SpeechError]:
        stretches = batch.stretches
        made = guarded(self._mels, stretches)
        mels: list[torch.Tensor | SpeechError]
        if not isinstance(made, SpeechError):
            mels = list(made)
        else:
            # The flow does not tell which row made it fail: compute each alone, so that only the bad one fails.
            mels = [made] if len(stretches) == 1 else [_first(guarded(self._mels, [stretch])) for stretch in stretches]
        batch.end_ns = time.time_ns()
        return mels

    def _mels(self, stretches: Sequence[Stretch]) -> list[torch.Tensor]:
        rows = [stretch.row for stretch in stretches]
        return self._flow(rows, urgent=True) if self._urgent else self._flow(rows)


def _first(found: list[torch.Tensor] | SpeechError) -> torch.Tensor | SpeechError:
    return found if isinstance(found, SpeechError) else found[0]
