"""Which replicas were replaced, from what Serve says of them, look after look.

A replica that runs no longer, while as many are wanted as before and nothing is being deployed, was lost: it died, or
Serve found it ill. The next new one that runs is its successor. One that nobody wants any more (scaling down, a
redeploy, an application that is gone) is no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RUNNING, STOPPING = "RUNNING", "STOPPING"
#: Serve's words for a deployment that is being changed on purpose.
UPDATING = "UPDATING"
CHANGING = frozenset({UPDATING, "DOWNSCALING"})


@dataclass(frozen=True)
class Replica:
    id: str
    state: str  #: Serve's: STARTING, RUNNING, STOPPING …
    actor_name: str = ""
    actor_id: str = ""


@dataclass(frozen=True)
class Service:
    """One deployment at one look."""

    status: str  #: Serve's: HEALTHY, UNHEALTHY, UPDATING …
    target: int  #: how many replicas are wanted
    replicas: tuple[Replica, ...]

    @property
    def running(self) -> dict[str, Replica]:
        return {replica.id: replica for replica in self.replicas if replica.state == RUNNING}

    @property
    def settled(self) -> bool:
        """All that are wanted run, and nothing starts or stops."""
        return len(self.running) == len(self.replicas) == self.target


def deploying(services: Mapping[str, Service]) -> bool:
    """Whether any of an application's services is being changed by a deploy."""
    return any(service.status == UPDATING for service in services.values())


@dataclass(frozen=True)
class Lost:
    """A replica that runs no longer. `seen_s`: when it was last seen to run, in seconds of the caller's clock."""

    service: str
    replica: Replica
    seen_s: float


@dataclass(frozen=True)
class Replaced:
    lost: Lost
    successor: str  #: its id
    at_s: float


class Replicas:
    def __init__(self) -> None:
        self._before: dict[str, Service] = {}
        self._seen: dict[str, float] = {}  # by replica id: when it was last seen to run
        self._open: dict[str, list[Lost]] = {}  # without a successor yet

    def see(self, services: Mapping[str, Service], now: float) -> tuple[list[Lost], list[Replaced]]:
        """What was lost since the last look, and which losses were made good. An empty look (Serve does not answer, or
        the application is gone) says nothing."""
        lost, replaced = [], []
        for name, service in services.items():
            if before := self._before.get(name):
                gone = [
                    Lost(name, replica, self._seen[replica.id])
                    for replica in before.running.values()
                    if replica.id not in service.running and not _meant(before, service)
                ]
                lost += gone
                waiting = self._open.setdefault(name, [])
                waiting += gone
                new = [one for one in service.running if one not in self._seen]
                replaced += [Replaced(waiting.pop(0), successor, now) for successor in new if waiting]
            self._seen |= dict.fromkeys(service.running, now)
            self._before[name] = service
        if services:
            for name in self._before.keys() - services.keys():
                del self._before[name]
                self._open.pop(name, None)
            here = {replica.id for service in services.values() for replica in service.replicas}
            self._seen = {one: at for one, at in self._seen.items() if one in here}
        return lost, replaced


def _meant(before: Service, now: Service) -> bool:
    return now.status in CHANGING or before.status in CHANGING or now.target < before.target
