"""Derive all findings from the evidence."""

from __future__ import annotations

from cluster.doctor.batching import batching
from cluster.doctor.bottleneck import bottleneck
from cluster.doctor.broken import broken
from cluster.doctor.dialects import dialects
from cluster.doctor.errors import errors
from cluster.doctor.evidence import Evidence
from cluster.doctor.fallback import fallback
from cluster.doctor.finding import ORDER, Finding
from cluster.doctor.otlp import otlp
from cluster.doctor.queues import queues
from cluster.doctor.sources import sources
from cluster.doctor.streams import streams
from cluster.doctor.watchdog import watchdog


def examine(evidence: Evidence) -> list[Finding]:
    """Return all findings, the urgent ones first."""
    findings = [
        finding
        for kind in (errors, batching, queues, streams, bottleneck, dialects, fallback, watchdog, broken, otlp, sources)
        for finding in kind(evidence)
    ]
    return sorted(findings, key=lambda finding: ORDER.index(finding.severity))
