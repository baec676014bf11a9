"""One request, one trace, whole: context in, spans, call context to the stages, export to Zipkin.

This package knows nothing of speech, Ray or deployments. The tutorial below follows a request and runs as a test.

1. **The caller's context.** `extract` reads B3 and W3C headers and never raises:

    >>> from tracing import Tracer, extract
    >>> incoming = extract({"b3": "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"})
    >>> incoming.sampling_state.name, incoming.format
    ('ACCEPT', 'b3')

2. **The root span.** Each replica has one `Tracer`. The ingress starts a SERVER span below the caller's:

    >>> api = Tracer("cosyvoice3-api")
    >>> root = api.server("POST /api/generate", parent=incoming.parent)
    >>> root.trace_id
    '463ac35c9f6413ad48485a3953bb6124'

3. **The call context.** Every call to a stage takes one along: the parent, the time sent, the deadline.

    >>> call = root.call_context(deadline_ns=root.start_ns + 60 * 10**9)

4. **The stage's span.** The stage's replica starts it with its own Tracer. At its end it is a `FinishedSpan` of plain
   values, and travels to the ingress on the reply:

    >>> span = Tracer("tts-service").server("GENERATE_MEL", parent=call)
    >>> span.tag("batch.size", 3)
    >>> span.add_child("LM_DECODE", span.start_ns, span.start_ns + 5_000_000)
    >>> finished = span.end()
    >>> [(one.name, one.kind) for one in finished]
    [('GENERATE_MEL', 'SERVER'), ('LM_DECODE', None)]

5. **A stage that can't report**, because it was killed or hangs, gets a CLIENT span in its name:

    >>> lost = api.client("VOCODE_WAV", parent=root.context, remote_service="vocoder-service")
    >>> lost.fail("stage_unavailable", status=503)

6. **Sampling and export.** The ingress alone sees the whole trace. It decides (`tracing.sampling`), encodes what it
   keeps (`tracing.encoding`), and hands it to the exporter. `submit` redacts it by an allow-list (`tracing.redaction`),
   appends it to a spool file and returns. A background thread deals with Zipkin's health:

    >>> from tracing import Exporter, ExportSettings, encode
    >>> exporter = Exporter(ExportSettings())  # no destination: it counts and forgets
    >>> exporter.submit(encode(root.end() + finished + lost.end()))
    >>> exporter.counters()["dropped_no_destination"]
    1

`tracing.vocabulary` is the whole list of words that a span may hold.
"""

from tracing.call_context import CallContext
from tracing.context import Incoming, SamplingState, extract, inject
from tracing.encoding import encode
from tracing.export_settings import ExportSettings
from tracing.exporter import Exporter
from tracing.finished_span import FinishedSpan
from tracing.non_recording import NonRecordingSpan, NoOpTracer
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
