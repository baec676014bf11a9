"""Finds lost nodes in what Ray says of the cluster's nodes, look after look.

A node is lost if Ray counts it as dead and it was not told to go. A node that the autoscaler took away as idle, or that
stopped on request (`ray stop`), is no loss. A lost node is made up for once no service counts a replica on it any more
and all services run as many replicas as are wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from watchdog.replicas import Service

#: Ray's reasons (NodeDeathInfo.Reason in its protocol) for a node that left on purpose.
EXPECTED_TERMINATION, DRAIN_PREEMPTED, DRAIN_IDLE = 1, 3, 4
ON_PURPOSE = frozenset({EXPECTED_TERMINATION, DRAIN_IDLE})
#: A word in Ray's message -> the cause. Ray asks each node how it is. One that crashed and one that is cut off look the
#: same: neither answers. Only a node whose Ray ends itself, for example because its agent failed, says why.
_ENDS = {"health check": "silent", "heartbeat": "silent"}
#: A watchdog that starts reports nodes that died this recently: it may have run on one of them.
REPORTED_AFTER_S = 300.0


@dataclass(frozen=True)
class Node:
    """One node, as Ray describes it."""

    id: str
    address: str
    alive: bool
    reason: int = 0  #: Ray's NodeDeathInfo.Reason; 0 while it lives
    message: str = ""  #: Ray's own words on the end
    port: int = 0  #: of its raylet; 0 if Ray doesn't say

    @property
    def cause(self) -> str:
        """The cause of its death: preempted, silent (it answers Ray no more), or died (its Ray ended itself)."""
        if self.reason == DRAIN_PREEMPTED:
            return "preempted"
        return next((cause for word, cause in _ENDS.items() if word in self.message.lower()), "died")


@dataclass(frozen=True)
class LostNode:
    """A node that is dead."""

    node: Node
    seen_s: float  #: when it last answered, in seconds of the caller's clock


class Nodes:
    """Follows the cluster's nodes."""

    def __init__(self) -> None:
        self._seen: dict[str, float] | None = None  # by node id: when it last answered
        self._missing: list[LostNode] = []

    def observe(
        self,
        nodes: Sequence[Node],
        now: float,
        silent: Collection[str] = (),
        ended_s: Mapping[str, float] | None = None,
    ) -> tuple[LostNode, ...]:
        """Compare with the look before, and return the nodes that were lost since.

        Args:
            nodes: All of them, the dead ones too. Empty (Ray does not answer) changes nothing.
            now: Seconds of the caller's clock.
            silent: The ids of nodes that did not answer at this look. Ray counts them as alive for a while yet.
            ended_s: At the first look: when dead nodes ended, by id. Those of the last `REPORTED_AFTER_S` are reported.
        """
        if not nodes:
            return ()
        if self._seen is None:
            self._seen = {id: at for id, at in (ended_s or {}).items() if now - at < REPORTED_AFTER_S}
        lost = tuple(
            LostNode(node, self._seen[node.id])
            for node in nodes
            if not node.alive and node.id in self._seen and node.reason not in ON_PURPOSE
        )
        before = self._seen
        self._seen = {node.id: before.get(node.id, now) if node.id in silent else now for node in nodes if node.alive}
        self._missing += lost
        return lost

    def restored(self, services: Mapping[str, Service]) -> tuple[LostNode, ...]:
        """Return the lost nodes that have been made up for. Each is returned once."""
        whole = bool(services) and all(service.settled for service in services.values())
        if not whole:
            return ()
        used = {replica.node_id for service in services.values() for replica in service.replicas}
        restored = tuple(lost for lost in self._missing if lost.node.id not in used)
        self._missing = [lost for lost in self._missing if lost.node.id in used]
        return restored
