"""Firing alerts of a Prometheus, and the traces that an alert's link finds in Zipkin."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx


class CheckFailed(AssertionError):
    """A drill did not go as the runbook says."""


@dataclass(frozen=True)
class Alert:
    name: str
    notes: Mapping[str, str]  #: its annotations: summary, value, stage, traces

    def traces(self) -> list[list[dict]]:
        """Ask Zipkin as its page does when it is opened at the link. Raises CheckFailed if there are no traces."""
        link = urlsplit(self.notes["traces"])
        asked = {name: values[0] for name, values in parse_qs(link.query).items()}
        query = {**asked, "lookback": asked.pop("millis")}
        answer = httpx.get(f"{link.scheme}://{link.netloc}/api/v2/traces", params=query, trust_env=False, timeout=30)
        if not (found := answer.raise_for_status().json()):
            raise CheckFailed(f"the link finds nothing: {self.notes['traces']}")
        return found


class Alerts:
    """The alerts and the metrics of one Prometheus."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=20)

    def firing(self) -> dict[str, Alert]:
        """Return the firing alerts by name; the first one if an alert fires for several label sets."""
        found: dict[str, Alert] = {}
        for one in self._http.get("/api/v1/alerts").json()["data"]["alerts"]:
            if one["state"] == "firing":
                found.setdefault(one["labels"]["alertname"], Alert(one["labels"]["alertname"], one["annotations"]))
        return found

    def ask(self, query: str) -> dict[tuple[str, ...], float]:
        """Evaluate a query; return values by the values of their labels."""
        found = self._http.get("/api/v1/query", params={"query": query}).json()["data"]["result"]
        return {tuple(one["metric"].values()): float(one["value"][1]) for one in found}

    def wait_until_gone(self, names: set[str] | None, within_s: float) -> None:
        """Wait until none of these alerts fires; with None, until no alert fires at all."""
        end = time.monotonic() + within_s
        while left := self.firing().keys() & names if names else self.firing().keys():
            if time.monotonic() > end:
                raise CheckFailed(f"{', '.join(sorted(left))} still fires after {within_s:.0f} s")
            time.sleep(0.5)
