"""One run of requests and what the doctor said of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.callers import Answers
from bench.doctor import Report
from bench.load import percentile


@dataclass
class Episode:
    """`wrong`: what was not as it must be, in words."""

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


def improvement(before: Episode, after: Episode) -> float:
    """By which share of itself P95 is lower."""
    return 1 - after.figures()["p95_ms"] / before.figures()["p95_ms"]
