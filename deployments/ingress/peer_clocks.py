"""Measures how far the clocks of other nodes are from this node's, by the calls that go there anyway.

A call has four times, as a question to an NTP server has (RFC 5905): sent and received on this node's clock, started
and ended, as the stage's own span says them, on the other one's. Half of what does not add up is the offset. It is
wrong by at most half of the time that the call was on its way, so the quickest of a node's last calls is believed.

What comes of it:

- A span from such a node gets the tag `clock.skew_ms`. Its times stay as they were. Without the skew its stage has
  begun after it was asked and ended before it was answered.
- The next calls carry the offset, so that the stage reckons their deadline and queue wait on its own clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from tracing import CallContext, FinishedSpan, vocabulary

#: Clocks that NTP keeps differ by less than this.
WORTH_TELLING_NS = 5_000_000
#: As many calls as NTP looks back on. A clock that is set right is believed after so many.
SAMPLES = 8


class PeerClocks:
    """The clocks of the nodes that one ingress replica calls.

    Args:
        node: this replica's node; its spans need no measuring.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._samples: dict[str, deque[tuple[int, int]]] = {}  # node -> time on the way, offset; both in ns
        self._offsets: dict[str, int] = {}  # those worth telling

    def tell(self, call: CallContext) -> CallContext:
        """Return a call with the offsets that its receiver may need."""
        return replace(call, offsets_ns=tuple(self._offsets.items())) if self._offsets else call

    def read(self, spans: list[FinishedSpan], sent_ns: int | None, received_ns: int) -> list[FinishedSpan]:
        """Measure by a reply's spans.

        Args:
            spans: the reply's.
            sent_ns: when the call was sent; None for spans that cover earlier calls too, which measure nothing.
            received_ns: when its reply came.

        Returns:
            The spans; those of a stage on a node with another time are tagged.
        """
        return [self._tagged(span, sent_ns, received_ns) if span.kind == "SERVER" else span for span in spans]

    def _tagged(self, span: FinishedSpan, sent_ns: int | None, received_ns: int) -> FinishedSpan:
        node = str(span.tags.get(vocabulary.NODE_ID, ""))
        if not node or node == self._node:
            return span
        if sent_ns is not None:
            self._measure(node, span, sent_ns, received_ns)
        offset = self._offsets.get(node)
        if offset is None:
            return span
        if sent_ns is not None:  # no stage begins before it is asked, or ends after it is answered
            offset = max(span.end_ns - received_ns, min(offset, span.start_ns - sent_ns))
        return span.with_tags({vocabulary.CLOCK_SKEW_MS: round(offset / 1e6, 1)})

    def _measure(self, node: str, span: FinishedSpan, sent_ns: int, received_ns: int) -> None:
        way = (received_ns - sent_ns) - (span.end_ns - span.start_ns)
        offset = ((span.start_ns - sent_ns) + (span.end_ns - received_ns)) // 2
        samples = self._samples.setdefault(node, deque(maxlen=SAMPLES))
        samples.append((way, offset))
        way, offset = min(samples)
        if abs(offset) - way // 2 > WORTH_TELLING_NS:
            self._offsets[node] = offset
        else:
            self._offsets.pop(node, None)
