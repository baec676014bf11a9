"""Draws the stages of a request under way and after its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from webui.client import Stage

STAGES = ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")
Ending = Literal["done", "failed", "stopped"]


@dataclass
class _Step:
    service: str = ""
    started: set[int] = field(default_factory=set)
    done: dict[int, float] = field(default_factory=dict)  #: milliseconds by piece
    pieces: int = 1

    @property
    def state(self) -> str:
        if len(self.done) >= self.pieces:
            return "done"
        return "started" if self.started or self.done else "waiting"

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

    def finish(self, ending: Ending, message: str = "") -> None:
        """End the progress: nothing more will come.

        Args:
            ending: How the request ended.
            message: The error's message. Where it names the service of a stage under way, that stage alone failed.
        """
        self._ending = ending
        if ending == "failed":
            under_way = {name for name, step in self._steps.items() if step.in_flight}
            named = {name for name in under_way if self._steps[name].service in message}
            self._failed = named or under_way

    def html(self, words: Mapping[str, str]) -> str:
        rows = "".join(self._row(name, step, words) for name, step in self._steps.items())
        return f'<ol class="stages" aria-label="{escape(words["progress"])}">{rows}</ol>'

    def _state(self, name: str, step: _Step) -> str:
        if self._ending is None or step.state == "done":
            return step.state
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
        took = f"{sum(step.done.values()):,.0f} {words['ms']}" if step.done else ""
        label = words.get(f"stage_{name}", name)
        return (
            f'<li class="{state}"><span class="dot" aria-hidden="true"></span>'
            f'<span class="name">{escape(label)}<small>{escape(step.service)}</small></span>'
            f'<span class="meter" aria-hidden="true"><b style="width:{share:.0f}%"></b></span>'
            f'<span class="said">{escape(said)}</span><span class="took">{escape(took)}</span></li>'
        )
