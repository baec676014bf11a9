"""The time that the doctor looks at, and links to searches over it in Zipkin's page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from tracing import vocabulary

LIMIT = 100  #: traces that a link shows at least
MOST = 1000  #: and at most: Zipkin's page draws all of them at once
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> float:
    """Return the seconds of `90s`, `15m`, `1h`, `2d`.

    Raises:
        ValueError: It is none of these, or not above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not match or float(match[1]) <= 0:
        raise ValueError(f"{text} is no length of time: write 90s, 15m, 1h or 2d")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Window:
    """A time, in seconds since the epoch. `page`: the address at which people open Zipkin, without /zipkin."""

    begin: float
    end: float
    page: str = ""

    @property
    def length_s(self) -> float:
        return self.end - self.begin

    def iso(self) -> tuple[str, str]:
        """Return begin and end in ISO 8601, of UTC."""

        def iso(moment: float) -> str:
            return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")

        return iso(self.begin), iso(self.end)

    def link(
        self, query: str = "", *, service: str = vocabulary.INGRESS, span: str = "", traces: int = 0
    ) -> str | None:
        """Return the address of a search in Zipkin's page over this time; None where no page is known.

        Args:
            query: Tags, as in `http.status_code=400 and error`.
            service: A trace is found if this service has a span in it with these tags.
            span: And with this name.
            traces: How many traces are to be found.
        """
        if not self.page:
            return None
        search = {
            "serviceName": service,
            "spanName": span.lower(),
            "annotationQuery": query,
            "lookback": "millis",
            "millis": round(self.length_s * 1000),
            "endTs": round(self.end * 1000),
            "limit": min(max(traces, LIMIT), MOST),
        }
        return f"{self.page}/zipkin/?{urlencode({name: value for name, value in search.items() if value != ''})}"
