"""`python -m cluster doctor`, run as an operator runs it, and checks of its report.

Each check takes a report and returns its faults in words; an empty list if there are none.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.ray_head import ROOT

WITHIN_POINTS = 3.0  #: a share that the doctor says may be off by so many points


@dataclass(frozen=True)
class Report:
    """The doctor's JSON."""

    said: dict

    def of(self, kind: str) -> list[dict]:
        return [finding for finding in self.said["findings"] if finding["kind"] == kind]

    @property
    def act(self) -> list[dict]:
        return [finding for finding in self.said["findings"] if finding["severity"] == "act"]

    def short(self) -> list[dict]:
        """Return the findings without details and links, for the record."""
        return [{key: one[key] for key in ("kind", "severity", "summary", "change")} for one in self.said["findings"]]

    @property
    def lines(self) -> list[str]:
        """Return severity, kind and summary of each finding, a line each."""
        return [f"{one['severity']:4} {one['kind']:10} {one['summary']}" for one in self.said["findings"]]


class Doctor:
    """Runs the doctor against a Zipkin and a Prometheus; `apply` changes the stack of the run folder."""

    def __init__(self, zipkin_url: str, prometheus_url: str, run_dir: Path) -> None:
        self._where = ["--zipkin-url", zipkin_url, "--prometheus-url", prometheus_url, "--run-dir", str(run_dir)]

    def ask(self, since_s: float) -> Report:
        """Ask for a report. Raises RuntimeError if the output is none."""
        done = self._run(since_s, "--json")
        try:
            return Report(json.loads(done.stdout))
        except ValueError:
            raise RuntimeError(
                f"the doctor said, with exit code {done.returncode}: {done.stdout} {done.stderr}"
            ) from None

    def apply_batch(self, since_s: float) -> None:
        """Let the doctor change the batch settings. Raises RuntimeError if it does not."""
        done = self._run(since_s, "--apply", "batch", "--yes")
        print(done.stdout, flush=True)
        if done.returncode:
            raise RuntimeError(f"--apply batch ended with {done.returncode}: {done.stdout} {done.stderr}")

    def _run(self, since_s: float, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster", "doctor", "--since", f"{since_s:.0f}s", *self._where, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def nothing_to_do(report: Report) -> list[str]:
    return [f"asks for something though nothing is wrong: {finding['summary']}" for finding in report.act]


def names_narrow_recordings(report: Report, whose: str, others: Iterable[str], shares: Iterable[float]) -> list[str]:
    """Check for a line with 8 kHz, one of the true `shares` (of all requests, of the refused ones), and the caller."""
    lines = [one["summary"] for one in report.of("errors") if re.search(r"\b8 ?kHz|\b8,?000 ?Hz", one["summary"])]
    if not lines:
        return ["no line names 8 kHz"]
    line = lines[0]
    said = [float(number) for number in re.findall(r"(\d+(?:\.\d+)?) ?%", line)]
    wrong = []
    if not any(abs(number - 100 * share) <= WITHIN_POINTS for number in said for share in shares):
        wrong.append(f"the line of 8 kHz has none of the shares {[f'{share:.1%}' for share in shares]}: {line}")
    if not names(line, whose):
        wrong.append(f"the line of 8 kHz doesn't name {whose}: {line}")
    return wrong + [f"the line of 8 kHz names {one}, who did nothing: {line}" for one in others if names(line, one)]


def names_forgetful_caller(report: Report, whose: str) -> list[str]:
    """Check for a line of refusals with the word dialect and the caller."""
    lines = [
        text
        for finding in report.of("errors")
        for text in (finding["summary"], *finding["detail"])
        if "dialect" in text
    ]
    return (
        []
        if any(names(line, whose) for line in lines)
        else [f"no line says that {whose} leaves the dialect out, of: {lines}"]
    )


def shows_fallback(report: Report, count: int) -> list[str]:
    """Check for a `fallback` finding that says how often a key's dialect stood in.

    Nine tenths of the traces are not kept, so the doctor's estimate may be from a fifth to three times of `count`.
    """
    found = report.of("fallback")
    lines = [text for finding in found for text in (finding["summary"], *finding["detail"])]
    if not any("key" in line for line in lines):
        return [f"no fallback to a key's dialect is shown, of: {lines}"]
    said = [int(number.replace(",", "")) for line in lines for number in re.findall(r"\b\d[\d,]*\b", line)]
    return (
        []
        if any(count / 5 <= number <= count * 3 for number in said)
        else [f"the fallback is not shown to be about {count}: {lines}"]
    )


def change_of_batches(report: Report) -> dict | None:
    """Return the change of batch settings that the doctor proposes, or None."""
    return next((finding["change"] for finding in report.of("batching") if finding["change"]), None)


def names(line: str, user_hash: str) -> bool:
    """Return True if a line holds this hash, or its first four digits at least."""
    return any(user_hash.startswith(word) for word in re.findall(r"\b[0-9a-f]{4,16}\b", line))
