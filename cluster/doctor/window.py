"""The time that is looked at, and links to it in Zipkin's page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from tracing import vocabulary

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> float:
    """`90s`, `15m`, `1h`, `2d`. ValueError where it is none of them, or no time at all."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or float(found[1]) <= 0:
        raise ValueError(f"{text} is no length of time: write 90s, 15m, 1h or 2d")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True)
class Window:
    """Seconds since the epoch. `page`: where people open Zipkin, without /zipkin."""

    begin: float
    end: float
    page: str = ""

    @property
    def length_s(self) -> float:
        return self.end - self.begin

    def iso(self) -> tuple[str, str]:
        def said(moment: float) -> str:
            return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")

        return said(self.begin), said(self.end)

    def link(self, query: str = "", *, service: str = vocabulary.INGRESS, span: str = "") -> str | None:
        """Zipkin's search for `query` (`http.status_code=400 and error`) over this time."""
        if not self.page:
            return None
        asked = {
            "serviceName": service,
            "spanName": span.lower(),
            "annotationQuery": query,
            "lookback": "millis",
            "millis": round(self.length_s * 1000),
            "endTs": round(self.end * 1000),
            "limit": 100,
        }
        return f"{self.page}/zipkin/?{urlencode({name: value for name, value in asked.items() if value != ''})}"
