"""Decodes continuously: rows join and leave the language model's batch between any two steps.

    decoder = Decoder(lm, rows=8, positions=2048)
    row = decoder.submit(Job(text=[…], prompt_tokens=[…], sampler=…, most=400))
    while not row.done:
        decoder.step()
    row.tokens

The cache is allocated once: `rows * positions` tokens (`decoder.cache.bytes`). A job that finds no free row waits,
first come first served; those that have said something before come first. A job that could never fit is refused when
it is submitted. A prompt is read in stretches, so that a long one does not stop the rows that decode. The decoder knows
no requests, threads or spans: its owner calls `step`, and reads a row's times afterwards. All calls must come from the
same thread.

On a GPU the host launches steps ahead, and reads a token some steps later. Tokens that a row computed after its end
are dropped, so its result does not depend on the number of steps ahead.

The text of a row may be still coming (`interleaving`). Between two steps such a row reads its next text tokens. It ends
when there are none, and its place is free for others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engines.cosyvoice3.batch import Batch
from engines.cosyvoice3.capture import Graphs, Recorder
from engines.cosyvoice3.interleaving import Live, Turn, turns
from engines.cosyvoice3.qwen import KvCache
from engines.cosyvoice3.sampling import GREEDY, NEVER, Sampler, SilenceLimit
from engines.cosyvoice3.speech_lm import SpeechLm

_AHEAD = 2  #: steps launched on a GPU before their tokens are read: the host works while they run
#: ids of a prompt that are read between two steps while others decode: they take about as long as a few steps
_STRETCH = {"cpu": 128, "cuda": 512}
_STRETCHES = (64, 128, 256, 512)  #: shapes that are recorded
_LONGEST_STRETCH = _STRETCHES[-1]
_SPAN = 64  #: a step's cache positions are rounded up to a multiple of this if nothing is recorded


@dataclass(frozen=True)
class Job:
    """The input and the settings of a row.

    Args:
        text: token ids, the prompt's transcript and prefix first.
        prompt_tokens: speech tokens of the reference clip; empty if the mode gives none to the language model.
        sampler: the row's own.
        most: the number of tokens after which the row ends by itself.
        said: tokens that it has said before, control tokens included: the row continues after them.
        live: the form of a text that is still coming; None: all of the text is read first.
    """

    text: Sequence[int]
    prompt_tokens: Sequence[int]
    sampler: Sampler
    most: int
    said: Sequence[int] = ()
    live: Live | None = None

    @property
    def positions(self) -> int:
        """The most cache positions it can need: all tokens that it reads, and all that it says but the last."""
        return self._read + self.most - 1

    @property
    def _read(self) -> int:
        read = 2 + len(self.text) + len(self.prompt_tokens)
        twice = self.live is not None and self.sampler.on_host  # see `Turn.again`
        return 2 * read if twice else read

    def within(self, positions: int) -> Job:
        """Return the same job, but allowed only as many tokens as fit into so many cache positions, at least one."""
        return replace(self, most=max(1, min(self.most, positions - self._read + 1)))


@dataclass(eq=False)
class Row:
    """A job under way. Times are in ns by the decoder's clock."""

    job: Job
    turns: list[Turn]
    submitted_ns: int
    joined_ns: int | None = None  #: time at which it got a row of the batch
    ended_ns: int | None = None
    cancelled: bool = False
    failed: bool = False  #: True: its probabilities were not finite, and it ended there
    steps: int = 0  #: number of steps in which it got a token
    batch_sizes: int = 0  #: sum of the rows of those steps
    tokens: list[int] = field(default_factory=list)  #: speech tokens, long silences shortened
    _ids: list[int] = field(default_factory=list)  # ids that it reads before it speaks
    _position: int = 0  # cache positions it takes once the device has done all launched work
    _launched: int = 0  # tokens that it has said by then
    _turn: int = 0  # the turn that it is in by then
    _began: int = 0  # tokens that it had said when that turn began
    _over: bool = False  # by then it has said all that it can
    _silence: SilenceLimit = field(default_factory=SilenceLimit)

    @property
    def done(self) -> bool:
        return self.ended_ns is not None

    @property
    def picked(self) -> list[int]:
        """All tokens that it said, control tokens included."""
        return self.job.sampler.picked

    @property
    def dry(self) -> bool:
        """True if it ended because it had no more text, and more will come."""
        live = self.job.live
        return live is not None and live.open and self._over and self.done and not self.cancelled and not self.failed

    @property
    def _final(self) -> bool:
        return self.turns[self._turn].final

    @property
    def _least(self) -> int:
        """The number of tokens before which it picks no control token."""
        return self.job.sampler.least if self._final else NEVER

    @property
    def _at_end(self) -> bool:
        """True if its turn has all its tokens."""
        return self._launched == self._began + self.turns[self._turn].most

    def _resume(self, lm: SpeechLm) -> None:
        """Lay out the ids that it reads before it speaks: those of its turns, and the tokens that it has said."""
        said, at = self.job.said, 0
        taken: list[int] = []
        self._launched = len(said)
        for index, turn in enumerate(self.turns):
            self._turn, self._began = index, at
            spoken = list(said[at : at + turn.most])
            filled = not turn.final and lm.fill_token in spoken
            if filled:
                spoken = spoken[: spoken.index(lm.fill_token)]
            elif not turn.final and len(spoken) == turn.most:
                raise ValueError("the tokens that were said belong to another text: no fill token is where text ended")
            sounds = lm.sound_ids(spoken)
            self._ids += [*(taken if turn.again else ()), *turn.ids, *sounds]
            taken = sounds[-1:] or [*turn.ids]  # what the network took last
            at += len(spoken) + filled
            if not filled:
                self._over = turn.final and bool(spoken) and (spoken[-1] >= lm.speech_tokens or self._at_end)
                break
        else:
            self._over = True
        if at < len(said):
            raise ValueError("the tokens that were said belong to another text: there are more than it has turns for")


@dataclass(frozen=True)
class _Flight:
    """A step launched on the device, and the buffer for its tokens."""

    rows: list[Row]
    tokens: Tensor
    arrived: torch.cuda.Event | None
    fills: frozenset[Row] = frozenset()  #: rows whose token is a fill token, whatever was picked


class Decoder:
    """A batch of rows that decode together.

    Args:
        lm: the language model.
        rows: the most rows in one batch.
        positions: the most cache positions of one row.
        clock: returns ns since the epoch.
        ahead: steps that may be launched before the tokens of the first are read; None: as suits the device.
        stretch: ids of a prompt that are read between two steps while others decode; None: as suits the device.
        recorder: see `Graphs`.

    Attributes:
        limit: the most rows of the cache that may be used; it may be changed between any two steps.
    """

    def __init__(
        self,
        lm: SpeechLm,
        rows: int = 8,
        positions: int = 3072,
        clock: Callable[[], int] = time.time_ns,
        ahead: int | None = None,
        stretch: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        cuda = lm.device.type == "cuda"
        self._lm = lm
        self._clock = clock
        self._batch = Batch(lm, rows, positions)
        self.graphs = Graphs(lm.device, priority=-1, recorder=recorder)
        self._recorded = self.graphs.enabled  # rows and stretches are then padded to a few shapes
        self._ahead = ahead if ahead is not None else _AHEAD if cuda else 0
        self._stretch = stretch or _STRETCH["cuda" if cuda else "cpu"]
        self._active: list[Row] = []  # the i-th has row i of the cache; the last one may still be reading
        self._reading: Row | None = None
        self._trailing: list[Row] = []  # all their steps are launched, and some of their tokens are not read yet
        self._waiting: deque[Row] = deque()
        self._flights: deque[_Flight] = deque()
        self._ended: list[Row] = []
        self.limit = rows
        if cuda:
            torch.cuda.synchronize(lm.device)  # memory allocated here is used on another stream from now on

    @property
    def cache(self) -> KvCache:
        return self._batch.cache

    @property
    def active(self) -> int:
        return len(self._active) + len(self._trailing)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> Row:
        """Queue a job; it joins the batch at the next step that has a free row.

        Raises:
            ValueError: the job needs more cache positions than a row has, asks for no tokens, has settings that the
                device can't sample by, or has said what its text can't have made it say.
            IndexError: an id is outside the vocabularies.
        """
        if job.most < 1:
            raise ValueError("a job must be allowed at least one token")
        if job.positions > self._batch.positions:
            raise ValueError(
                f"the job may need {job.positions} cache positions and a row has {self._batch.positions}; "
                "split the text, or allocate longer rows"
            )
        settings = job.sampler.settings
        if not job.sampler.on_host and (
            settings.top_k > self._batch.sampler.top_k
            or settings is not GREEDY
            and settings.win_size != self._batch.window
        ):
            raise ValueError(
                f"top_k {settings.top_k} and win_size {settings.win_size} can't be sampled by: this decoder has "
                f"{self._batch.sampler.top_k} at most, and {self._batch.window}"
            )
        laid = turns(self._lm, job.text, job.prompt_tokens, job.most, job.live, official=job.sampler.on_host)
        row = Row(job, laid, self._clock())
        row._resume(self._lm)
        if job.said:
            job.sampler.resume(job.said)
        row.tokens += [token for token in job.said if token < self._lm.speech_tokens and row._silence.keeps(token)]
        if job.said:
            # A listener hears it already, who would rather not wait: it goes before those who hear nothing yet.
            self._waiting.insert(sum(bool(each.job.said) for each in self._waiting), row)
        else:
            self._waiting.append(row)
        return row

    def cancel(self, row: Row) -> None:
        """Remove a job that waits or decodes and free its row at once. Does nothing for a job that is done."""
        if row.done:
            return
        row.cancelled = True
        if row in self._waiting:
            self._waiting.remove(row)
        else:
            self._leave(row)
        row.ended_ns = self._clock()

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Let waiting jobs join free rows, and give one token to every row that decodes.

        If it raises, the rows that took part are still in the batch, and can be cancelled like any other.

        Returns:
            The rows that ended, as far as that is known by now.
        """
        with self.graphs.on(wait=False):
            self._let_in()
            if any(row.job.sampler.on_host for row in self._active):
                self._hear(0)
            launched = self._launch()
            self._hear(self._ahead if launched else 0)
        ended, self._ended = self._ended, []
        return ended

    def run(self) -> None:
        """Step until no row decodes or waits."""
        while self.active or self._waiting:
            self.step()

    @torch.inference_mode()
    def warm(self) -> int:
        """Record every shape that may come, while no job is there; returns the number of graphs, 0 on a CPU."""
        if not self._recorded or self.active:
            return 0
        rows = sorted({self._padded(n) for n in range(1, self._batch.rows + 1)})
        spans = sorted({self._span(at) for at in range(self._batch.positions)})
        with self.graphs.on(wait=False):
            for span in spans:
                for n in rows:
                    self._compute(n, span)
                for stretch in _STRETCHES:
                    if stretch <= span:
                        self._read_in(torch.zeros(3 + stretch, dtype=torch.int64), span)
        if self.graphs.stream is not None:
            self.graphs.stream.synchronize()
        return len(self.graphs)

    def _let_in(self) -> None:
        """Read prompts: as many as fit while no row decodes, else so few that the other rows wait only shortly."""
        left = self._stretch if self._decoding else None
        while left is None or left > 0:
            row = self._reading or self._next()
            if row is None:
                return
            count = self._read(row, left)
            left = None if left is None else left - count

    def _next(self) -> Row | None:
        while self._waiting and len(self._active) < self.limit:
            row = self._waiting.popleft()
            row.joined_ns = self._clock()
            if row._over:
                self._end(row)  # it has no more tokens to say
                continue
            self._active.append(row)
            self._reading = row
            return row
        return None

    @property
    def _decoding(self) -> int:
        return len(self._active) - (self._reading is not None)

    def _read(self, row: Row, most: int | None) -> int:
        """Read a stretch of the row's prompt, without the last id, which the first step reads; returns its length."""
        start, total = row._position, len(row._ids) - 1
        count = min(total - start, _LONGEST_STRETCH, total if most is None else most)
        padding = self._stretched(count) - count
        given = [len(self._active) - 1, start, count, *row._ids[start : start + count], *[0] * padding]
        self._read_in(torch.tensor(given), self._span(start + count - 1))
        row._position += count
        if row._position == total:
            sampler = row.job.sampler
            most = sum(turn.most for turn in row.turns)
            uniforms = None if sampler.on_host else sampler.uniforms(most - len(row.job.said))
            self._batch.seat(len(self._active) - 1, self._as_token(row._ids[-1]), total, row._least, sampler, uniforms)
            self._reading, row._ids = None, []
        return count

    def _as_token(self, id: int) -> int:
        """Return an id in the form of `SpeechLm.embedded` as `Batch.seat` takes it."""
        return id - self._lm.body.size.vocabulary

    def _launch(self) -> bool:
        """Launch a step if any row decodes."""
        if not self._decoding:
            return False
        rows = self._active[: self._decoding]
        picked, log_probabilities = self._compute(
            self._padded(len(rows)), self._span(max(row._position for row in rows))
        )
        if any(row.job.sampler.on_host for row in rows):
            picked = self._picked_on_host(rows, picked, log_probabilities)
        for row in rows:
            row._position += 1
            row._launched += 1
        fills = frozenset(
            row
            for index, row in enumerate(rows)
            if not row._final and (row._at_end or row.job.sampler.on_host and int(picked[index]) == self._lm.fill_token)
        )
        self._flights.append(self._flight(rows, picked[: len(rows)], fills))
        for place, row in enumerate(rows):
            row._over = (row in fills or row._at_end) and row.turns[row._turn] is row.turns[-1]
            if row in fills and not row._over:
                self._begin_turn(row, place)
        for row in rows:
            if row._over:
                self._leave(row)
                self._trailing.append(row)
        return True

    def _begin_turn(self, row: Row, place: int) -> None:
        """Let a row that decodes read the ids of its next turn, all but the last, which the next step reads."""
        taken = self._taken(row)
        row._turn, row._began = row._turn + 1, row._launched
        turn = row.turns[row._turn]
        ids = [*taken, *turn.ids] if turn.again else [*turn.ids]
        for first in range(0, len(ids) - 1, _LONGEST_STRETCH):
            stretch = ids[first : min(first + _LONGEST_STRETCH, len(ids) - 1)]
            padding = self._stretched(len(stretch)) - len(stretch)
            given = torch.tensor([place, row._position, len(stretch), *stretch, *[0] * padding])
            self._read_in(given, self._span(row._position + len(stretch) - 1))
            row._position += len(stretch)
        self._batch.turn(place, self._as_token(ids[-1]), row._position, row._least, self._lm.fill_token)

    def _taken(self, row: Row) -> list[int]:
        """Return what the network took last before the row's fill token, where the row picks on the host."""
        if not row.job.sampler.on_host:
            return []
        said = row.picked[row._began : -1]
        return self._lm.sound_ids(said[-1:]) if said else [*row.turns[row._turn].ids]

    def _compute(self, n: int, span: int) -> tuple[Tensor, Tensor]:
        return self.graphs(("step", n, span), lambda: self._batch.step(n, span), state=[self._batch.state])

    def _read_in(self, given: Tensor, span: int) -> None:
        given = given.pin_memory() if self._batch.state.is_cuda else given
        self.graphs(("read", span), lambda ids: self._batch.read(ids, span), given)

    def _picked_on_host(self, rows: list[Row], picked: Tensor, log_probabilities: Tensor) -> Tensor:
        """Pick tokens on the host for rows that need the probabilities. Only this method waits for the device."""
        tokens = picked[: len(rows)].cpu()
        seen = log_probabilities[: len(rows)].float().cpu().numpy()
        for index, row in enumerate(rows):
            if not row.job.sampler.on_host or tokens[index] < 0:
                continue
            if not row._final and row._launched + 1 == row._began + row.turns[row._turn].most:
                tokens[index] = self._lm.fill_token
                row.picked.append(self._lm.fill_token)
            else:
                tokens[index] = row.job.sampler.pick(seen[index].copy(), ends=row._final)
        self._batch.say(tokens.to(picked.device))
        return tokens

    def _flight(self, rows: list[Row], picked: Tensor, fills: frozenset[Row]) -> _Flight:
        if not picked.is_cuda:
            return _Flight(rows, picked.clone(), None, fills)
        tokens = torch.empty(picked.shape, dtype=picked.dtype, pin_memory=True)
        tokens.copy_(picked, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return _Flight(rows, tokens, arrived, fills)

    def _hear(self, ahead: int) -> None:
        """Read the tokens of all steps but the last `ahead`."""
        while len(self._flights) > ahead:
            flight = self._flights.popleft()
            if flight.arrived is not None:
                flight.arrived.synchronize()
            for row, token in zip(flight.rows, flight.tokens.tolist(), strict=True):
                if not row.done:  # else it was cut, and this token is dropped
                    row.steps += 1
                    row.batch_sizes += len(flight.rows)
                    self._say(row, token, row in flight.fills)

    def _say(self, row: Row, token: int, filled: bool) -> None:
        if token < 0:
            row.failed = True
            self._end(row)
            return
        if filled:
            token = self._lm.fill_token
        if not row.job.sampler.on_host:
            row.picked.append(token)
        if token < self._lm.speech_tokens and row._silence.keeps(token):
            row.tokens.append(token)
        if token >= self._lm.speech_tokens and not filled or row._over and len(row.picked) == row._launched:
            self._end(row)

    def _end(self, row: Row) -> None:
        self._leave(row)
        row.ended_ns = self._clock()
        self._ended.append(row)

    @torch.inference_mode()
    def _leave(self, row: Row) -> None:
        """Free a row of the cache. Others move into the gap, so that the batch stays contiguous."""
        if row in self._trailing:
            self._trailing.remove(row)
        if row not in self._active:
            return
        with self.graphs.on(wait=False):
            if row is self._reading:  # it has the last place
                self._reading = None
                self._active.pop()
                return
            hole = self._active.index(row)
            # The last row that decodes moves, and then the row after it that still reads.
            for source in dict.fromkeys((self._decoding - 1, len(self._active) - 1)):
                if source != hole:
                    self._batch.move(source, hole, self._active[source]._position)
                    self._active[hole] = self._active[source]
                    hole = source
            self._active.pop()
            self._batch.set_aside(hole)

    def _padded(self, n: int) -> int:
        """Round n up to the rows of a recorded step: powers of two, then multiples of eight."""
        if not self._recorded:
            return n
        return min(self._batch.rows, 1 << (n - 1).bit_length() if n <= 8 else -(-n // 8) * 8)

    def _stretched(self, n: int) -> int:
        return next(stretch for stretch in _STRETCHES if stretch >= n) if self._recorded else n

    def _span(self, at: int) -> int:
        """Round the cache positions up to the last one, `at`, to a multiple that grows with it."""
        step = _SPAN if not self._recorded else 256 if at < 1024 else 512 if at < 2048 else 1024
        return min(self._batch.cache.slots, (at // step + 1) * step)
