"""Say whether the receiver of OTLP takes traces now."""

from __future__ import annotations

from cluster.doctor.evidence import Evidence
from cluster.doctor.finding import Finding


def otlp(evidence: Evidence) -> list[Finding]:
    """Return what a request without spans has found; nothing where no receiver is known."""
    if evidence.otlp_url is None:
        return []
    if evidence.otlp_problem is None:
        return [Finding("traces", "fine", f"the receiver of OTLP at {evidence.otlp_url} takes traces")]
    return [
        Finding(
            "traces",
            "act",
            f"the receiver of OTLP at {evidence.otlp_url} takes no traces: {evidence.otlp_problem}",
            advice="The traces wait in the spool and are sent once it takes them: docs/otlp.md, If nothing arrives.",
            figures={"url": evidence.otlp_url},
        )
    ]
