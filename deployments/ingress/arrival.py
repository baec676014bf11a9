"""Tells the ingress when a request arrived at Serve's proxy, so that its trace begins there.

A request waits in the proxy while no ingress replica can take it: all of them are at their limit, or the last one was
lost and its successor starts. The client waits too, so that time belongs to the trace and to the deadline.

The proxy can't tell how long it was: it hands the scope to Serve's router before a replica is found. So it says when
the request arrived. On the ingress's own node that is exact. Another node may have another time. Then the quickest of
its last requests is taken to have waited for nothing. Until there are enough of them, both clocks are taken to agree.
"""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass

from starlette.types import Scope

_KEY = "cosygraph.arrival"  # of the ASGI scope
#: Requests of a proxy before its clock is judged by them, and as many as are looked back on.
ENOUGH, SAMPLES = 8, 64


@dataclass(frozen=True)
class Arrival:
    """A request's arrival at Serve's proxy.

    Attributes:
        node: Ray's id of the proxy's node; empty if unknown.
        at_ns: on that node's clock, ns since the epoch.
        waited_s: seconds that it has waited for another ingress replica, which was lost with it; mostly 0.
    """

    node: str
    at_ns: int
    waited_s: float = 0.0


def put(scope: Scope, arrival: Arrival) -> Scope:
    """Return the scope with the arrival in it, in the proxy; other applications can unpickle it without this module."""
    return {**scope, _KEY: astuple(arrival)}


def of(scope: Scope) -> Arrival | None:
    """Return a request's arrival, in the ingress; None where Serve's proxy lacks our middleware."""
    return Arrival(*scope[_KEY]) if _KEY in scope else None


class ProxyClocks:
    """The clocks of the proxies that one ingress replica is asked by.

    Args:
        node: this replica's node; its proxy has the same clock.
        deadline_s: a proxy gives a request up after so long, so a longer wait is another time.
    """

    def __init__(self, node: str, deadline_s: float) -> None:
        self._node = node
        self._deadline_ns = int(deadline_s * 1e9)
        self._taken_ns: dict[str, deque[int]] = {}  # by node: from arrival there to arrival here, as the clocks say

    def started_ns(self, arrival: Arrival, now_ns: int) -> int:
        """Return when a request arrived at its proxy, on this node's clock; never later than `now_ns`."""
        taken_ns, at_least_ns = now_ns - arrival.at_ns, int(arrival.waited_s * 1e9)
        if arrival.node == self._node:
            return now_ns - max(taken_ns, at_least_ns)
        samples = self._taken_ns.setdefault(arrival.node, deque(maxlen=SAMPLES))
        offset_ns = min(samples) if len(samples) >= ENOUGH else 0
        samples.append(taken_ns)
        plausible = at_least_ns <= taken_ns - offset_ns <= self._deadline_ns
        return now_ns - (taken_ns - offset_ns if plausible else at_least_ns)
