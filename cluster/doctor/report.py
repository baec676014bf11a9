"""Findings as text and as JSON."""

from __future__ import annotations

from textwrap import wrap

from cluster.doctor.evidence import Evidence
from cluster.doctor.finding import Finding

WIDTH = 116
_LABELS = {"act": "ACT", "look": "look", "fine": "fine"}


def as_json(evidence: Evidence, findings: list[Finding]) -> dict:
    """Return the findings as JSON values, with the time and the sources they are about."""
    begin, end = evidence.window.iso()
    return {
        "from": begin,
        "to": end,
        "sources": {"zipkin": evidence.read.counts(), "prometheus": evidence.counts and evidence.counts.counts()},
        "findings": [finding.as_json() for finding in findings],
    }


def as_text(evidence: Evidence, findings: list[Finding]) -> str:
    """Return the findings as text. Fine ones get one line, without details; no detail is repeated."""
    begin, end = evidence.window.iso()
    lines = [f"from {begin} to {end}", ""]
    for finding in findings:
        lines += _hanging(f"{_LABELS[finding.severity]:5} {finding.kind:11}", finding.summary)
        if finding.severity == "fine" and finding.kind not in ("bottleneck", "sources"):
            continue
        for line in dict.fromkeys(finding.detail):
            lines += _hanging(" " * 19 + "· ", line)
        if finding.advice:
            lines += _hanging(" " * 17 + "→ ", finding.advice)
        if finding.traces:
            lines.append(" " * 19 + finding.traces)
    count = sum(finding.severity == "act" for finding in findings)
    lines += ["", f"{count} to act on" if count else "nothing to act on"]
    return "\n".join(lines)


def _hanging(first: str, text: str) -> list[str]:
    return wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
