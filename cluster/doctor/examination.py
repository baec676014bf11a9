"""All findings over the evidence, the urgent ones first."""

from __future__ import annotations

from cluster.doctor.batching import batching
from cluster.doctor.bottleneck import bottleneck
from cluster.doctor.broken import broken
from cluster.doctor.dialects import dialects
from cluster.doctor.errors import errors
from cluster.doctor.evidence import Evidence
from cluster.doctor.fallback import fallback
from cluster.doctor.finding import ORDER, Finding
from cluster.doctor.queues import queues
from cluster.doctor.sources import sources
from cluster.doctor.watchdog import watchdog


def examine(evidence: Evidence) -> list[Finding]:
    found = [
        finding
        for kind in (errors, batching, queues, bottleneck, dialects, fallback, watchdog, broken, sources)
        for finding in kind(evidence)
    ]
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))
