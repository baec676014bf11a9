"""Runs requests in a closed loop, from token ids to audio, with the engine's models in threads, like their replicas.

One thread uses the acoustic model as `deployments` does (submit, step, hand on); another vocodes all finished mels.
They share this process, so a figure of this bench includes the interpreter's lock and no network.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from dataclasses import dataclass

import numpy as np
import torch

from bench.gpu.requests import utterance
from engines.contract import Mel, MelChunk, TextWanted
from engines.cosyvoice3.acoustic import CosyVoice3AcousticModel
from engines.cosyvoice3.ticket import Ticket
from engines.cosyvoice3.vocoder import CosyVoice3Vocoder
from speech.errors import SpeechError

_TOGETHER = 16  #: the most mels or chunks that the vocoder takes at once
SAMPLE_RATE = 24_000


@dataclass
class Heard:
    """The times of a request as its client hears it, in seconds of one clock."""

    seed: int
    began: float
    ended: float = 0.0
    first: float = 0.0  #: time of the first sound
    samples: int = 0
    late: float = 0.0  #: the longest gap between the end of playback of earlier chunks and the next chunk
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def hear(self, audio: np.ndarray, now: float) -> None:
        if not len(audio):
            return
        if self.samples:
            self.late = max(self.late, now - (self.first + self.seconds))
        else:
            self.first = now
        self.samples += len(audio)


class _Voicing(threading.Thread):
    """A vocoder in a thread of its own; complete requests come out of `done`."""

    def __init__(self, vocoder: CosyVoice3Vocoder) -> None:
        super().__init__(name="vocoder", daemon=True)
        self._vocoder = vocoder
        self.todo: queue.SimpleQueue[tuple[Heard, Mel | MelChunk] | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._parts: dict[int, tuple[int, int]] = {}  # by seed: the part being given out, and its samples so far

    def run(self) -> None:
        while (item := self.todo.get()) is not None:
            items = [item]
            while len(items) < _TOGETHER:
                try:
                    more = self.todo.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self.todo.put(None)
                    break
                items.append(more)
            try:
                self._voice([(heard, mel) for heard, mel in items if isinstance(mel, Mel)])
                chunks = [(heard, chunk) for heard, chunk in items if isinstance(chunk, MelChunk)]
                while chunks:  # only one chunk of a stream at a time: each continues the one before
                    now = list({heard.seed: (heard, chunk) for heard, chunk in reversed(chunks)}.values())
                    chunks = [pair for pair in chunks if not any(pair[1] is taken[1] for taken in now)]
                    self._voice_chunks(now)
            except Exception as error:
                for heard, _ in items:
                    heard.error = f"{type(error).__name__}: {error}"
                    self.done.put(heard)

    def _voice(self, items: list[tuple[Heard, Mel]]) -> None:
        if not items:
            return
        for (heard, _), audio in zip(items, self._vocoder.vocode([mel for _, mel in items]), strict=True):
            self._hear(heard, audio, last=True)

    def _voice_chunks(self, items: list[tuple[Heard, MelChunk]]) -> None:
        asked = []
        for heard, chunk in items:
            part, given = self._parts.get(heard.seed, (0, 0))
            asked.append((chunk, given if part == chunk.part else 0))
        for (heard, chunk), (_, given), audio in zip(items, asked, self._vocoder.vocode_chunks(asked), strict=True):
            if not isinstance(audio, SpeechError):
                self._parts[heard.seed] = chunk.part, given + len(audio)
            self._hear(heard, audio, chunk.last)

    def _hear(self, heard: Heard, audio: np.ndarray | SpeechError, last: bool) -> None:
        now = time.perf_counter()
        if isinstance(audio, SpeechError):
            heard.error = audio.message
        else:
            heard.hear(audio, now)
        if last or heard.error:
            heard.ended = now
            self._parts.pop(heard.seed, None)
            self.done.put(heard)


class _Busy(threading.Thread):
    """The device's reported utilisation, read ten times a second."""

    def __init__(self, device: str) -> None:
        super().__init__(name="busy", daemon=True)
        self._device, self._over = device, threading.Event()
        self.percents: list[int] = []

    def run(self) -> None:
        while self._device.startswith("cuda") and not self._over.wait(0.1):
            try:
                self.percents.append(torch.cuda.utilization())
            except Exception:
                return  # no pynvml here: the figure is left out

    def stop(self) -> float | None:
        self._over.set()
        self.join()
        return statistics.mean(self.percents) if self.percents else None


@dataclass
class Loop:
    """A closed loop with an acoustic model and a vocoder.

    The model's planner is a `RandomPlanner`.
    """

    model: CosyVoice3AcousticModel
    vocoder: CosyVoice3Vocoder
    device: str
    seeds: int = 0  #: number of requests made

    def run(self, in_flight: int, seconds: float, stream: bool) -> dict[str, float | int | str]:
        """Measure the requests that end within `seconds`, with `in_flight` at any time.

        The time begins after `in_flight` requests have ended; those do not count.
        """
        voicing, busy = _Voicing(self.vocoder), _Busy(self.device)
        voicing.start()
        tickets: dict[Ticket, Heard] = {}
        ended: list[Heard] = []
        errors: list[str] = []
        planner = self.model.planner
        in_hand, counting_from, until = 0, None, float("inf")

        def begin() -> None:
            nonlocal in_hand
            seed, self.seeds = self.seeds, self.seeds + 1
            voice = planner.voice(seed)  # type: ignore[attr-defined]
            heard = Heard(seed, time.perf_counter())
            ticket = self.model.submit(utterance(seed), voice, stream=stream)
            if isinstance(ticket, SpeechError):
                raise RuntimeError(f"a request was refused: {ticket.message}")
            tickets[ticket] = heard
            in_hand += 1

        for _ in range(in_flight):
            begin()
        while in_hand:
            wait = not tickets
            while True:
                try:
                    heard = voicing.done.get(timeout=1.0) if wait else voicing.done.get_nowait()
                except queue.Empty:
                    break
                wait = False
                in_hand -= 1
                ended.append(heard)
                if heard.error:
                    errors.append(heard.error)
                now = time.perf_counter()
                if counting_from is None and len(ended) >= in_flight:
                    counting_from, until = now, now + seconds
                    busy.start()
                if now < until and len(errors) < 10:
                    begin()
            if tickets:
                for ticket, result in self.model.step():
                    heard = tickets[ticket]
                    if isinstance(result, SpeechError):
                        heard.error = result.message
                        heard.ended = time.perf_counter()
                        del tickets[ticket]
                        voicing.done.put(heard)
                        continue
                    assert not isinstance(result, TextWanted), "no text is open here"
                    if not isinstance(result, MelChunk) or result.last:
                        del tickets[ticket]
                    voicing.todo.put((heard, result))
        voicing.todo.put(None)
        voicing.join()
        share = busy.stop() if busy.is_alive() or busy.percents else None
        good = [heard for heard in ended if not heard.error]
        start = counting_from or 0.0
        counted = [heard for heard in good if start < heard.ended <= until] or good
        end = min(until, max((heard.ended for heard in counted), default=start))
        figures: dict[str, float | int | str] = {"in_flight": in_flight, "requests": len(counted)}
        if counted and end > start:
            took = [heard.ended - heard.began for heard in counted]
            figures |= {
                "req_s": len(counted) / (end - start),
                "p50_ms": 1000 * statistics.median(took),
                "p95_ms": 1000 * float(np.percentile(took, 95)),
                "rtf": statistics.median(one / heard.seconds for one, heard in zip(took, counted, strict=True)),
            }
            if stream:
                firsts = [1000 * (heard.first - heard.began) for heard in counted]
                figures |= {
                    "first_p50_ms": statistics.median(firsts),
                    "first_p95_ms": float(np.percentile(firsts, 95)),
                    "no_gap": sum(heard.late <= 0 for heard in counted) / len(counted),
                    "late_max_ms": 1000 * max(heard.late for heard in counted),
                }
        if share is not None:
            figures["busy_percent"] = share
        if errors:
            figures["errors"] = len(errors)
            figures["error"] = errors[0]
        return figures
