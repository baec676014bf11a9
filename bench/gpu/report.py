"""Prints the results of a run as they come, and keeps them in a file that is complete at any time."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measuring.records import hardware


class Report:
    """The figures of a run, by phase.

    Args:
        path: the JSON file, written again with every row.
        budget_s: the seconds that the run may take, from now.
    """

    def __init__(self, path: Path, budget_s: float, settings: dict[str, Any]) -> None:
        self._path = path
        self._began = time.monotonic()
        self._budget_s = budget_s
        self._content: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **hardware(),
            "settings": settings,
            "phases": {},
            "errors": {},
        }
        self._save()

    @property
    def left_s(self) -> float:
        return self._budget_s - (time.monotonic() - self._began)

    @property
    def errors(self) -> dict[str, str]:
        return self._content["errors"]

    def rows(self, phase: str) -> list[dict[str, Any]]:
        return self._content["phases"].get(phase, [])

    def add(self, phase: str, **figures: Any) -> None:
        """Add a row of a phase. Numbers are kept to four digits."""
        row = {name: _short(value) for name, value in figures.items()}
        self._content["phases"].setdefault(phase, []).append(row)
        print(f"{phase:8}", "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        self._save()

    def run(self, phase: str, needs_s: float, work: Callable[[], None]) -> None:
        """Run a phase unless less than `needs_s` is left. A phase that raises is only reported."""
        if self.left_s < needs_s:
            self._fail(phase, f"left out: it needs about {needs_s:.0f} s, and {self.left_s:.0f} s are left")
            return
        start = time.monotonic()
        try:
            work()
        except Exception:
            self._fail(phase, traceback.format_exc())
        print(f"{phase:8} took {time.monotonic() - start:.1f} s; {self.left_s:.0f} s are left", flush=True)

    def _fail(self, phase: str, why: str) -> None:
        self._content["errors"][phase] = why
        print(f"{phase:8} {why}", flush=True)
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".part")
        beside.write_text(json.dumps(self._content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(beside, self._path)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
