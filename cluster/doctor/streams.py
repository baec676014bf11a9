"""Streams whose listeners ran dry, and the likely cause: a queue, a device that is too slow, or a lost stage.

A slow client is no cause: the time in which it does not take what is ready is left out (docs/streams.md).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cluster.doctor.evidence import FEWEST, Evidence
from cluster.doctor.figures import ms, percent, plural, quantile
from cluster.doctor.finding import Finding
from cluster.doctor.traces import SPEECH_STAGES, Trace
from tracing import vocabulary

FEW = 5  #: streams with gaps below which there is nothing to act on
SHARE = 0.05  #: of all streams, as in the alert StreamsRunDry
REAL_TIME = 1.0  #: seconds of computing for a second of audio, from which no order of work helps


@dataclass(frozen=True)
class Cause:
    """The likely cause of a gap: `lost`, `slow`, `queue` or `ingress`, and the service that it was in."""

    kind: str
    service: str


def streams(evidence: Evidence) -> list[Finding]:
    """Return a finding if there were streams: how many had a gap, and why."""
    all_streams = [trace for trace in evidence.requests if trace.tag(vocabulary.STREAM_CONTINUOUS) is not None]
    dry = [trace for trace in all_streams if trace.tag(vocabulary.STREAM_CONTINUOUS) == "false"]
    if not all_streams:
        return []
    number, whole = (sum(trace.weight for trace in some) for some in (dry, all_streams))
    figures = {"streams": round(whole), "with_gaps": round(number), "share": round(number / whole, 4)}
    if number < FEWEST:
        return [
            Finding("streams", "fine", f"{plural(number, 'stream')} of {round(whole):,} had a gap", figures=figures)
        ]
    silence = [(trace.request.ms(vocabulary.STREAM_UNDERRUN_MS), trace.weight) for trace in dry]
    weights: dict[Cause, float] = defaultdict(float)
    for trace in dry:
        weights[cause_of(trace)] += trace.weight
    causes = sorted(weights.items(), key=lambda item: (-item[1], item[0].kind))
    first = causes[0][0]
    p50, p95 = quantile(silence, 0.5), quantile(silence, 0.95)
    of_all = f"{percent(number / whole)} of the streams"
    act = number >= FEW and number / whole > SHARE
    return [
        Finding(
            "streams",
            "act" if act else "look",
            f"{of_all} had a gap ({plural(number, 'stream')}): half of them {ms(p50)} of silence or more, 5 % "
            f"{ms(p95)} or more; most likely {_said(first)}",
            [f"{plural(weight, 'stream')}: {_said(cause)}" for cause, weight in causes],
            _ADVICE[first.kind].format(service=first.service),
            traces=evidence.window.link(query=f"{vocabulary.STREAM_CONTINUOUS}=false"),
            figures=figures
            | {
                "underrun_p50_ms": round(p50, 1),
                "underrun_p95_ms": round(p95, 1),
                "causes": [{"cause": one.kind, "service": one.service, "streams": round(w)} for one, w in causes],
            },
        )
    ]


def cause_of(trace: Trace) -> Cause:
    """Return the likely cause of a stream's gaps, by what its stages say of their time."""
    lost = next(iter(trace.lost), None)
    if lost is not None:
        return Cause("lost", lost.remote or vocabulary.STAGE_SERVICE[lost.name])
    waits: dict[str, float] = defaultdict(float)
    computes: dict[str, float] = defaultdict(float)
    for span in trace.stages:
        if span.name in SPEECH_STAGES:
            service = vocabulary.STAGE_SERVICE[span.name]
            waits[service] += span.ms(vocabulary.QUEUE_WAIT_MS) + span.ms(vocabulary.BATCH_WAIT_MS)
            computes[service] += span.ms(vocabulary.COMPUTE_MS)
    waiting, computing = sum(waits.values()), sum(computes.values())
    if not computes or waiting + computing < trace.request.ms(vocabulary.STREAM_UNDERRUN_MS):
        return Cause("ingress", vocabulary.INGRESS)
    slowest = max(computes, key=lambda service: computes[service])
    audio_ms = 1000 * (trace.request.number(vocabulary.STREAM_SECONDS) or 0.0)
    if computes[slowest] >= REAL_TIME * audio_ms or computing >= waiting:
        return Cause("slow", slowest)
    return Cause("queue", max(waits, key=lambda service: waits[service]))


def _said(cause: Cause) -> str:
    match cause.kind:
        case "lost":
            return f"{cause.service} was lost in the middle"
        case "slow":
            return f"{cause.service} computes too slowly for what is to be heard"
        case "queue":
            return f"they waited for {cause.service}"
    return "neither waits nor computing: the ingress itself, or its node"


_ADVICE = {
    "lost": "See why the replicas of {service} die: its log, and the finding `traces`.",
    "slow": "A faster device or more `threads` for {service}; where batches are large, a smaller `max_batch_size`.",
    "queue": "More replicas of {service} (max_replicas), fewer requests at once (`limits.max_in_flight`), or a larger "
    "`limits.first_audio_hold_s`, so that new streams wait for those that are heard.",
    "ingress": "Look at the CPU of the ingress's node; more replicas of {service}.",
}
