"""One phase of load, and the doctor's report on it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.measuring.load import percentile
from tests.drills.callers import Answers
from tests.drills.doctor_report import Report


@dataclass
class LoadPhase:
    """The requests of one phase, the doctor's report, and what differs from what must be (`wrong`, in words)."""

    answers: Answers
    began: float  #: of time.monotonic
    report: Report
    wrong: list[str]

    @property
    def since_s(self) -> float:
        return time.monotonic() - self.began

    def figures(self) -> dict:
        good = [sample.ms for sample in self.answers.of() if sample.status == 200]
        return {
            "seconds": self.answers.seconds,
            "requests": len(self.answers.samples),
            "good": len(good),
            "refused": len(self.answers.refused),
            "unexpected": self.answers.unexpected,
            "p50_ms": round(percentile(good, 50)),
            "p95_ms": round(percentile(good, 95)),
            "doctor": self.report.short(),
        }


def improvement(before: LoadPhase, after: LoadPhase) -> float:
    """Return the relative reduction of P95: 0.6 if it is lower by 60 %."""
    return 1 - after.figures()["p95_ms"] / before.figures()["p95_ms"]
