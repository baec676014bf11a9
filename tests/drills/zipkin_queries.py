"""Traces in Zipkin of requests whose trace ids are known."""

from __future__ import annotations

import time

import httpx

from bench.measuring.load import Sample
from tracing import vocabulary

LIMIT = 10_000  #: traces in one answer


class ZipkinQueries:
    """Searches a Zipkin for the traces of requests that were sent."""

    def __init__(self, zipkin_url: str) -> None:
        self._http = httpx.Client(base_url=zipkin_url, trust_env=False, timeout=60)

    def refused(self, samples: list[Sample], since_s: float, within_s: float = 20.0) -> list[list[dict]]:
        """Find the traces of the last `since_s` seconds in which the ingress answered 400 to one of these requests.

        Waits until all traces are there, at most `within_s`, and returns those that are.
        """
        wanted, end = {sample.trace_id for sample in samples}, time.monotonic() + within_s
        while True:
            found = self._find(f"{vocabulary.HTTP_STATUS_CODE}=400", since_s + within_s)
            traces = [trace for trace in found if trace[0]["traceId"] in wanted]
            if len(traces) >= len(wanted) or time.monotonic() > end:
                return traces
            time.sleep(0.5)

    def _find(self, query: str, since_s: float) -> list[list[dict]]:
        asked: dict[str, str | int] = {
            "serviceName": vocabulary.INGRESS,
            "annotationQuery": query,
            "lookback": round(since_s * 1000),
            "limit": LIMIT,
        }
        return self._http.get("/api/v2/traces", params=asked).raise_for_status().json()

    def user_hash(self, samples: list[Sample], within_s: float = 20.0) -> str:
        """Return the user hash of these requests' caller. Raises RuntimeError if no trace of them was kept."""
        end = time.monotonic() + within_s
        for sample in samples:
            while sample.kept:
                answer = self._http.get(f"/api/v2/trace/{sample.trace_id}")
                for span in answer.json() if answer.status_code == 200 else ():
                    if vocabulary.USER_HASH in span.get("tags", {}):
                        return span["tags"][vocabulary.USER_HASH]
                if time.monotonic() > end:
                    break
                time.sleep(0.5)
        raise RuntimeError(f"none of {len(samples)} requests is kept with a user's hash")


def has_rate(trace: list[dict], rate: int) -> bool:
    """Return True if a span says that the clip had this sample rate."""
    return any(span.get("tags", {}).get(vocabulary.AUDIO_SAMPLE_RATE) == str(rate) for span in trace)
