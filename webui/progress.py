"""Draws the stages of a request under way and after its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from webui.client import Stage, Timing
from webui.figures import covered, duration

STAGES = ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")
Ending = Literal["done", "failed", "stopped"]


@dataclass
class _Step:
    service: str = ""
    started: set[int] = field(default_factory=set)
    done: dict[int, float] = field(default_factory=dict)  #: milliseconds by piece
    pieces: int = 1
    took_ms: float | None = None  #: for how long this stage worked at some piece, once all is known

    @property
    def state(self) -> str:
        if len(self.done) >= self.pieces:
            return "done"
        return "started" if self.started or self.done else "waiting"

    @property
    def ms(self) -> float | None:
        """How long the stage worked. Pieces overlap: their sum would be longer than the request."""
        if self.took_ms is None and self.pieces == 1 and self.done:
            return sum(self.done.values())
        return self.took_ms

    @property
    def in_flight(self) -> bool:
        return bool(self.started - self.done.keys())


class Progress:
    """Keeps the progress of a request so far; `html` draws it."""

    def __init__(self) -> None:
        self._steps = {name: _Step() for name in STAGES}
        self._ending: Ending | None = None
        self._failed: set[str] = set()

    def take(self, event: Stage) -> None:
        step = self._steps.setdefault(event.stage, _Step())  # an engine may have a stage of its own
        step.service, step.pieces = event.service, max(event.pieces, step.pieces)
        if event.state == "done":
            step.done[event.piece] = event.ms or 0.0
        else:
            step.started.add(event.piece)

    def finish(
        self, ending: Ending, message: str = "", service: str | None = None, timings: Sequence[Timing] = ()
    ) -> None:
        """End the progress: nothing more will come.

        Args:
            ending: How the request ended.
            message: The error's message.
            service: The service at fault. If it is None, the message may name it. If neither names the service of a
                stage under way, each of these has failed.
            timings: The times of the finished request. They replace those of the events, which were taken elsewhere,
                so that the page has one number for one thing.
        """
        self._ending = ending
        if ending == "failed":
            under_way = {name for name, step in self._steps.items() if step.in_flight}
            named = {name for name in under_way if self._steps[name].service in (service or message)}
            self._failed = named or under_way
        for name, step in self._steps.items():
            spans = [(one.start_ms, one.start_ms + one.duration_ms) for one in timings if one.stage == name]
            step.took_ms = covered(spans) if spans else step.took_ms

    def html(self, words: Mapping[str, str]) -> str:
        rows = "".join(self._row(name, step, words) for name, step in self._steps.items())
        return f'<ol class="stages" aria-label="{escape(words["progress"])}">{rows}</ol>'

    def _state(self, name: str, step: _Step) -> str:
        if self._ending is None or step.state == "done" or (self._ending == "done" and step.done):
            return "done" if self._ending == "done" else step.state
        if name in self._failed:
            return "failed"
        if step.state == "started":
            return "stopped"
        # A stage that a finished request never started was not needed: its voice was known.
        return "skipped" if self._ending == "done" else "not_run"

    def _row(self, name: str, step: _Step, words: Mapping[str, str]) -> str:
        state = self._state(name, step)
        share = 100 * len(step.done) / step.pieces if state != "skipped" else 0
        said = words[f"state_{state}"]
        if step.pieces > 1 and step.state != "waiting":
            pieces = words["pieces"].format(done=len(step.done), all=step.pieces)
            said = f"{said} · {pieces}" if state in ("failed", "stopped") else pieces
        took = duration(ms, words) if (ms := step.ms) is not None else ""
        label = words.get(f"stage_{name}", name)
        return (
            f'<li class="{state}"><span class="dot" aria-hidden="true"></span>'
            f'<span class="name">{escape(label)}<small>{escape(step.service)}</small></span>'
            f'<span class="meter" aria-hidden="true"><b style="width:{share:.0f}%"></b></span>'
            f'<span class="said">{escape(said)}</span><span class="took">{escape(took)}</span></li>'
        )
