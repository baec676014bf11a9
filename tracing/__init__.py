"""One request, one trace, whole: context in, spans, carrier to the stages, export to Zipkin.

This package knows nothing of speech, Ray or deployments. Read it in the order in which a request meets it.

1. **The caller's context.** `extract` reads B3 and W3C headers and never raises:

    >>> from tracing import Tracer, extract
    >>> incoming = extract({"b3": "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"})
    >>> incoming.decision.name, incoming.format
    ('ACCEPT', 'b3')

2. **The root span.** Each replica has one `Tracer`; the ingress opens a SERVER span below the caller's:

    >>> api = Tracer("cosyvoice3-api")
    >>> root = api.server("POST /api/generate", parent=incoming.parent)
    >>> root.trace_id
    '463ac35c9f6413ad48485a3953bb6124'

3. **The carrier.** Every call to a stage takes one along: the parent, the time sent, the deadline.

    >>> carrier = root.carrier(deadline_ns=root.start_ns + 60 * 10**9)

4. **The stage's span.** In the stage's replica, with its own Tracer. Finished, it is a record of plain values and
   rides home on the reply:

    >>> span = Tracer("tts-service").server("GENERATE_MEL", parent=carrier)
    >>> span.tag("batch.size", 3)
    >>> span.child("LM_DECODE", span.start_ns, span.start_ns + 5_000_000)
    >>> reported = span.records()
    >>> [(record.name, record.kind) for record in reported]
    [('GENERATE_MEL', 'SERVER'), ('LM_DECODE', None)]

5. **A stage that can't report** (killed, hung) gets a CLIENT span in its name:

    >>> lost = api.client("VOCODE_WAV", parent=root.context, remote_service="vocoder-service")
    >>> lost.fail("stage_unavailable", status=503)

6. **Export.** The ingress alone sees the whole trace, decides (`tracing.sampling`), encodes what it keeps for Zipkin,
   and hands it over. `submit` redacts it (an allow-list:
   `tracing.redaction`), puts it into a spool file, and returns; Zipkin's health is the background thread's worry:

    >>> from tracing import Exporter, ExportSettings, encode
    >>> exporter = Exporter(ExportSettings())       # nowhere to send to: counts and forgets
    >>> exporter.submit(encode(root.records() + reported + lost.records()))
    >>> exporter.counters()["dropped_no_destination"]
    1

What a span may say is one file, `tracing.vocabulary`.
"""

from tracing.call_context import CallContext
from tracing.context import Incoming, SamplingState, extract, inject
from tracing.encoding import encode
from tracing.exporter import Exporter
from tracing.finished_span import FinishedSpan
from tracing.non_recording import NonRecordingSpan, NoOpTracer
from tracing.settings import ExportSettings
from tracing.spans import Span, Tracer

__all__ = [
    "CallContext",
    "SamplingState",
    "Exporter",
    "ExportSettings",
    "Incoming",
    "FinishedSpan",
    "NonRecordingSpan",
    "NoOpTracer",
    "Span",
    "Tracer",
    "encode",
    "extract",
    "inject",
]
