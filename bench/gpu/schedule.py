"""Simulate how the engine schedules requests on a GPU, without one: `python -m bench.gpu.schedule`.

The scheduler is the engine's own: tickets, chunks, the flow's batchers and their limits. Only time is computed, from
the costs below. They were chosen so that the simulated whole requests come near those measured on an H200. A figure of
this program tells if one way of scheduling is better than another, and not how fast a GPU is.

    python -m bench.gpu.schedule                      as the engine schedules on a GPU
    python -m bench.gpu.schedule --before             each chunk at once, one lane, batches of any size
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import deque
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch

from bench.gpu.requests import Lengths, RandomPlanner, utterance
from engines.contract import Mel, MelChunk, TextWanted
from engines.cosyvoice3 import acoustic
from engines.cosyvoice3.acoustic import CosyVoice3AcousticModel
from engines.cosyvoice3.decoder import Job
from engines.cosyvoice3.flow_batches import Limits, bucket
from engines.cosyvoice3.flow_worker import FlowBatch
from engines.cosyvoice3.numbers import Sampling
from engines.cosyvoice3.ticket import Ticket
from speech.errors import SpeechError

_STEP_S, _STEP_ALONE_S = 0.0016, 0.00115  #: a decoding step of several rows, and of one (bench/results/gpu.json)
_READ_S = 0.006  #: a prompt
_BESIDE = 2.5  #: times as long a step takes while the flow computes
_FLOW_S, _FLOW_FRAME_S = 0.020, 0.000035  #: a batch of the flow, and each of its frames, padding included
_FLOW_BESIDE = 1.2  #: times as long a batch takes while rows are decoded
_SHARES = {True: 0.65, False: 0.35}  #: of the device, for an urgent batch and another one beside it
_VOCODER_S, _VOCODER_FRAME_S = 0.006, 0.000015
_HELD_BACK = 8  #: frames


class _World:
    """The clock, and the two workers of the flow that share the device."""

    def __init__(self) -> None:
        self.now = 0.0
        self.workers: list[_Worker] = []
        self.decodes = False

    def clock(self) -> float:
        return self.now

    @property
    def computes(self) -> bool:
        return any(worker.left > 0 for worker in self.workers)

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and with it the work of batches that are under way."""
        self.now += seconds
        busy = [worker for worker in self.workers if worker.left > 0]
        for worker in busy:
            share = _SHARES[worker.urgent] if len(busy) > 1 else 1.0
            worker.left -= seconds * share / (_FLOW_BESIDE if self.decodes else 1.0)


class _Worker:
    """A `FlowWorker` whose batches only take time."""

    def __init__(self, world: _World, urgent: bool) -> None:
        self._world, self.urgent = world, urgent
        self.left = 0.0
        self._batch: FlowBatch | None = None
        world.workers.append(self)

    @property
    def busy(self) -> bool:
        return self._batch is not None

    def start(self, batch: FlowBatch) -> None:
        rows, frames = bucket(len(batch.stretches), max(_frames(each.row) for each in batch.stretches))
        self._batch, self.left = batch, _FLOW_S + _FLOW_FRAME_S * rows * frames

    def collect(self, wait_s: float = 0.0) -> dict[Ticket, SpeechError | None]:
        if self._batch is None or self.left > 0:
            return {}
        batch, self._batch = self._batch, None
        return batch.end(
            [torch.zeros(1, _frames(each.row) - 2 * len(each.row.prompt_tokens)) for each in batch.stretches]
        )


def _frames(row: Any) -> int:
    return 2 * (len(row.prompt_tokens) + len(row.tokens) - (0 if row.final else 3))


class _Decoder:
    """A `Decoder` whose steps only take time: a row says token 0 until its length."""

    def __init__(self, world: _World, rows: int) -> None:
        self._world, self.limit = world, rows
        self.cache = SimpleNamespace(positions=10**6, bytes=0)
        self._active: list[Any] = []
        self._waiting: deque[Any] = deque()
        self._reading: list[Any] = []

    @property
    def active(self) -> int:
        return len(self._active) + len(self._reading)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> Any:
        row = SimpleNamespace(
            job=job, tokens=[], picked=[], done=False, failed=False, submitted_ns=0, joined_ns=None, ended_ns=None,
            steps=0, batch_sizes=0, read_s=_READ_S, dry=False,
        )  # fmt: skip
        self._waiting.append(row)
        return row

    def cancel(self, row: Any) -> None:
        row.done = True

    def step(self) -> None:
        while self._waiting and self.active < self.limit:
            row = self._waiting.popleft()
            row.joined_ns = 1
            self._reading.append(row)
        self._world.decodes = self.active > 0
        slower = _BESIDE if self._world.computes else 1.0
        took = slower * (_STEP_ALONE_S if len(self._active) == 1 else _STEP_S) if self._active else 0.0005
        if self._reading:
            self._reading[0].read_s -= took
            if self._reading[0].read_s <= 0:
                self._active.append(self._reading.pop(0))
                self._world.pass_by(took)
                return
        self._world.pass_by(took)
        for row in list(self._active):
            row.tokens.append(0)
            row.picked.append(0)
            row.steps += 1
            row.batch_sizes += len(self._active)
            if len(row.tokens) == row.job.most:
                row.done, row.ended_ns = True, 1
                self._active.remove(row)


class _Vocoder:
    """A vocoder of one thread that takes what waits, up to 16 at once."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._waiting: list[tuple[Any, int, bool]] = []
        self._under_way: list[tuple[Any, int, bool]] = []
        self._until = 0.0

    def add(self, request: Any, frames: int, last: bool) -> None:
        self._waiting.append((request, frames, last))

    def heard(self) -> list[tuple[Any, int, bool]]:
        """Return what is vocoded by now, and begin with what waits."""
        done: list[tuple[Any, int, bool]] = []
        if self._under_way and self._world.now >= self._until:
            done, self._under_way = self._under_way, []
        if not self._under_way and self._waiting:
            self._under_way, self._waiting = self._waiting[:16], self._waiting[16:]
            frames = sum(each[1] for each in self._under_way)
            self._until = self._world.now + _VOCODER_S + _VOCODER_FRAME_S * frames
        return done


def run(in_flight: int, stream: bool, seconds: float = 12.0, before: bool = False, seed: int = 0) -> dict[str, float]:
    """Simulate a closed loop of requests as `bench.gpu` makes them, and return its figures.

    Args:
        in_flight: requests at any time.
        stream: True: streams, else whole texts.
        seconds: of simulated time; the first fifth does not count.
        before: True: schedule as before there were lanes and late chunks.
        seed: of the first request.
    """
    world = _World()
    planner = RandomPlanner(Lengths(), Sampling(top_p=0.8, top_k=25, win_size=10, tau_r=0.1), 1_000, 6_561)
    network: Any = SimpleNamespace(look_ahead=3, frames=_frames)
    with (
        patch.object(acoustic, "Decoder", lambda lm, rows, positions: _Decoder(world, rows)),
        patch.object(acoustic, "FlowWorker", lambda flow, beside, urgent=False: _Worker(world, urgent)),
    ):
        model = CosyVoice3AcousticModel(
            cast(Any, None), network, cast(Any, planner), rows=32, limits=Limits(), beside=True, clock=world.clock
        )
    if before:
        model._urgent_worker = model._urgent_batcher = None
        model._lead_s, model._urgent_s = math.inf, 0.0
        world.workers = [worker for worker in world.workers if not worker.urgent]
    vocoder, requests, ended, seeds = _Vocoder(world), {}, [], seed

    def begin() -> None:
        nonlocal seeds
        ticket = model.submit(utterance(seeds), planner.voice(seeds), stream=stream)
        if isinstance(ticket, SpeechError):
            raise ticket
        requests[ticket] = SimpleNamespace(began=world.now, first=None, ended=0.0, heard=0.0, late=0.0)
        seeds += 1

    for _ in range(in_flight):
        begin()
    while world.now < seconds:
        for ticket, result in model.step():
            if isinstance(result, SpeechError):
                raise result
            assert not isinstance(result, TextWanted), "no text is open here"
            last = isinstance(result, Mel) or isinstance(result, MelChunk) and result.last
            vocoder.add(requests.pop(ticket) if last else requests[ticket], result.arrays["mel"].shape[1], last)
        for request, frames, last in vocoder.heard():
            if request.first is None:
                request.first = world.now
            else:
                request.late = max(request.late, world.now - request.first - request.heard)
            request.heard = max(0, frames - (0 if last else _HELD_BACK)) / 50
            if last:
                request.ended = world.now
                ended.append(request)
                begin()
    counted = [request for request in ended if request.ended > seconds / 5]
    firsts = [1000 * (request.first - request.began) for request in counted]
    return {
        "requests": len(counted),
        "req_s": len(counted) / (seconds * 4 / 5),
        "p50_ms": 1000 * statistics.median(request.ended - request.began for request in counted),
        "first_p50_ms": statistics.median(firsts),
        "first_p95_ms": float(np.percentile(firsts, 95)),
        "no_gap": sum(request.late <= 0 for request in counted) / len(counted),
        "late_max_ms": 1000 * max(request.late for request in counted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.schedule", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--before", action="store_true", help="each chunk at once, one lane, batches of any size")
    parser.add_argument("--levels", nargs="+", type=int, default=[1, 4, 8, 16])
    options = parser.parse_args()
    for stream in (False, True):
        for level in options.levels:
            figures = {name: float(f"{value:.3g}") for name, value in run(level, stream, before=options.before).items()}
            print("stream" if stream else "whole ", f"in_flight {level:2}", *(f"{k} {v:g}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
