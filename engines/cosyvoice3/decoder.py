"""Continuous decoding: rows join and leave the language model's batch between any two steps.

    decoder = Decoder(lm, rows=8, positions=2048)
    row = decoder.submit(Job(text=[…], prompt_tokens=[…], sampler=…, most=400))
    while not row.done:
        decoder.step()
    row.tokens

The cache is allocated once: `rows * positions` tokens (`decoder.cache.bytes`). A job that finds no free row waits,
first come first served; one that could never fit is refused when it is submitted. Knows nothing of requests, threads
or spans: whoever owns it calls `step`, and reads a row's times afterwards. All calls belong to one thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from engines.cosyvoice3.qwen import KvCache
from engines.cosyvoice3.sampling import Sampler, SilenceLimit
from engines.cosyvoice3.speech_lm import SpeechLm


@dataclass(frozen=True)
class Job:
    """What one row is to say.

    Args:
        text: token ids, the prompt's transcript and prefix first.
        prompt_tokens: speech tokens of the reference clip; empty where the mode gives none to the language model.
        sampler: the row's own.
        most: tokens after which the row ends by itself.
    """

    text: Sequence[int]
    prompt_tokens: Sequence[int]
    sampler: Sampler
    most: int

    @property
    def positions(self) -> int:
        """Cache positions it can come to need: all it reads, and all it says but the last token."""
        return 2 + len(self.text) + len(self.prompt_tokens) + self.most - 1


@dataclass(eq=False)
class Row:
    """A job on its way. Times are the decoder's clock's, in ns."""

    job: Job
    submitted_ns: int
    joined_ns: int | None = None  #: it got a row of the batch
    ended_ns: int | None = None
    cancelled: bool = False
    steps: int = 0  #: forward passes it took part in, the reading of its prompt included
    batch_sizes: int = 0  #: sum over those steps of how many rows shared them
    tokens: list[int] = field(default_factory=list)  #: speech tokens, long silences shortened
    _position: int = 0  # of the token that the next step reads
    _last: int = 0
    _silence: SilenceLimit = field(default_factory=SilenceLimit)

    @property
    def done(self) -> bool:
        return self.ended_ns is not None


class Decoder:
    """A batch of rows that decode together.

    Args:
        lm: the language model.
        rows: the most rows in one batch.
        positions: the most cache positions of one row.
        clock: ns since the epoch.

    Attributes:
        limit: rows that may be taken, of those the cache has; may be changed between any two steps.
    """

    def __init__(
        self, lm: SpeechLm, rows: int = 8, positions: int = 3072, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._lm = lm
        self._clock = clock
        self.cache = KvCache(lm.body.size, rows, positions, str(lm.device), lm.dtype)
        self._active: list[Row] = []  # row i of the cache belongs to the i-th
        self._waiting: deque[Row] = deque()
        self.limit = rows

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> Row:
        """Queue a job; it joins the batch at the next step that has a free row.

        Raises:
            ValueError: the job needs more cache positions than a row has, or nothing is asked of it.
        """
        if job.most < 1:
            raise ValueError("a job must be allowed at least one token")
        if job.positions > self.cache.positions:
            raise ValueError(
                f"the job may need {job.positions} cache positions and a row has {self.cache.positions}; "
                "split the text, or allocate longer rows"
            )
        row = Row(job, self._clock())
        self._waiting.append(row)
        return row

    def cancel(self, row: Row) -> None:
        """Take a job out, waiting or decoding; its row is free at once. Does nothing for one that is done."""
        if row.done:
            return
        row.cancelled = True
        if row in self._waiting:
            self._waiting.remove(row)
            row.ended_ns = self._clock()
        else:
            self._leave(row)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One token for every row of the batch, then the first of who is let in; returns the rows that ended by it.

        Where it raises, the rows that took part are still in the batch, and can be cancelled like any other.
        """
        said = self._take_step() if self._active else []
        for row in said:
            self._leave(row)
        read = self._join()
        for row in read:
            self._leave(row)
        return said + read

    def run(self) -> None:
        """Step until nobody decodes or waits."""
        while self._active or self._waiting:
            self.step()

    def _take_step(self) -> list[Row]:
        lm, rows = self._lm, self._active
        at = [row._position for row in rows]
        last = torch.tensor([row._last for row in rows], device=lm.device)
        hidden = lm.body.step(lm.speech_embedding(last), torch.tensor(at, device=lm.device), max(at), self.cache)
        for row in rows:
            row._position += 1
        return self._say(rows, hidden)

    def _join(self) -> list[Row]:
        first = len(self._active)
        count = min(len(self._waiting), self.limit - first)
        if count <= 0:
            return []
        rows = [self._waiting.popleft() for _ in range(count)]
        self._active += rows  # before anything can fail: a row that is in no list could not be cancelled
        now = self._clock()
        for row in rows:
            row.joined_ns = now
        inputs = [self._lm.embedded(row.job.text, row.job.prompt_tokens) for row in rows]
        lengths = [len(embedded) for embedded in inputs]
        hidden = self._lm.body.prefill(pad_sequence(inputs, batch_first=True), torch.tensor(lengths), self.cache, first)
        for row, length in zip(rows, lengths, strict=True):
            row._position = length
        return self._say(rows, hidden)

    def _say(self, rows: list[Row], hidden: torch.Tensor) -> list[Row]:
        """Each row's next token from its hidden state; returns the rows that are through."""
        ended = []
        for row, log_probabilities in zip(rows, self._lm.log_probabilities(hidden).cpu().numpy(), strict=True):
            row.steps += 1
            row.batch_sizes += len(rows)
            token = row.job.sampler.pick(log_probabilities)
            if token >= self._lm.speech_tokens:
                ended.append(row)
                continue
            row._last = token
            if row._silence.keeps(token):
                row.tokens.append(token)
            if len(row.job.sampler.picked) == row.job.most:
                ended.append(row)
        return ended

    def _leave(self, row: Row) -> None:
        """Free a row; the batch's last row moves into the hole, so that the batch stays in one piece."""
        row.ended_ns = self._clock()
        hole, last = self._active.index(row), len(self._active) - 1
        if hole != last:
            self.cache.move(last, hole, self._active[last]._position)
            self._active[hole] = self._active[last]
        self._active.pop()
