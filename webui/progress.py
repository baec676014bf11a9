"""The four stages of a request under way, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from webui.client import Done, Stage

STAGES = ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")


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


class Progress:
    """The progress of a request so far; `html` draws it."""

    def __init__(self) -> None:
        self._steps = {name: _Step() for name in STAGES}
        self._over = False
        self._whole = False

    def take(self, event: Stage) -> None:
        step = self._steps.setdefault(event.stage, _Step())  # an engine may have a stage of its own
        step.service, step.pieces = event.service, max(event.pieces, step.pieces)
        if event.state == "done":
            step.done[event.piece] = event.ms or 0.0
        else:
            step.started.add(event.piece)

    def finish(self, done: Done | None) -> None:
        """Nothing more will come; `done` where the request succeeded."""
        self._over, self._whole = True, done is not None

    def html(self, words: Mapping[str, str]) -> str:
        rows = "".join(self._row(name, step, words) for name, step in self._steps.items())
        return f'<ol class="stages" aria-label="{escape(words["progress"])}">{rows}</ol>'

    def _row(self, name: str, step: _Step, words: Mapping[str, str]) -> str:
        state = step.state
        if self._over and state != "done":
            # A stage that a finished request never started was not needed: its voice was known.
            state = "skipped" if self._whole and state == "waiting" else "waiting"
        share = 100 * len(step.done) / step.pieces if state != "skipped" else 0
        said = words[f"state_{state}"]
        if step.pieces > 1 and state in ("started", "done"):
            said = words["pieces"].format(done=len(step.done), all=step.pieces)
        took = f"{sum(step.done.values()):,.0f} {words['ms']}" if step.done else ""
        label = words.get(f"stage_{name}", name)
        return (
            f'<li class="{state}"><span class="dot" aria-hidden="true"></span>'
            f'<span class="name">{escape(label)}<small>{escape(step.service)}</small></span>'
            f'<span class="meter" aria-hidden="true"><b style="width:{share:.0f}%"></b></span>'
            f'<span class="said">{escape(said)}</span><span class="took">{escape(took)}</span></li>'
        )
