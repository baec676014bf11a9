"""The sources that the doctor has read, and those it could not read."""

from __future__ import annotations

from datetime import UTC, datetime

from cluster.doctor.evidence import Evidence
from cluster.doctor.figures import count, plural
from cluster.doctor.finding import Finding, Severity


def sources(evidence: Evidence) -> list[Finding]:
    """Return one finding: how many traces and requests all others are about, and which source is missing."""
    read = evidence.read
    severity: Severity = "fine"
    total, known = evidence.all_requests
    detail = [f"Zipkin: {plural(len(read.traces), 'trace')} in {plural(read.pages, 'page')}"]
    if read.cut_at is not None:
        severity = "look"
        at = datetime.fromtimestamp(read.cut_at, UTC).isoformat(timespec="seconds")
        detail.append(
            f"Zipkin has more traces than the doctor reads: those before {at} are left out; use a shorter --since"
        )
    if read.skipped:
        severity = "look"
        detail.append(f"at {read.skipped} moments Zipkin has more traces than one answer holds; some were not seen")
    if evidence.counts is None:
        detail.append(f"Prometheus: not read ({evidence.no_counts}); shares are by the kept traces' weights")
    else:
        detail.append(f"Prometheus: {count(evidence.counts.requests)} requests for speech")
    if evidence.partial:
        severity = "look"
        detail.append(
            f"the traces stand for {count(evidence.stood_for)} of these: Zipkin has forgotten its oldest "
            "(memory storage), more came than are read, or callers refused tracing"
        )
    if not evidence.deployments:
        detail.append(f"Serve: not read ({evidence.no_deployments}); settings and replicas are not known")
    if not evidence.requests:
        severity = "look"
        summary = f"no request for speech is in Zipkin for this time ({len(read.traces)} other traces)"
    else:
        about = "an unknown number of" if total is None else count(total)
        summary = f"{len(evidence.requests):,} kept traces, of {about} requests ({known})"
    return [
        Finding(
            "sources",
            severity,
            summary,
            detail,
            figures={"requests": None if total is None else round(total), "requests_are": known},
        )
    ]
