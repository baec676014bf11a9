"""Finds lost and replaced replicas in what Serve says of them, look after look.

A replica is lost if it runs no longer although as many are wanted as before and nothing is being deployed: it died, or
Serve found it unhealthy. The next new replica that runs is its successor. A replica that is no longer wanted is no
loss: scaling down, a redeploy, an application that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RUNNING = "RUNNING"
#: Serve's statuses of a deployment that is being changed on purpose.
UPDATING = "UPDATING"
CHANGING = frozenset({UPDATING, "DOWNSCALING"})


@dataclass(frozen=True)
class Replica:
    """One replica, as Serve describes it."""

    id: str
    state: str  #: Serve's: STARTING, RUNNING, STOPPING …
    actor_name: str = ""
    actor_id: str = ""
    node_id: str = ""


@dataclass(frozen=True)
class Service:
    """One deployment at one look."""

    status: str  #: Serve's: HEALTHY, UNHEALTHY, UPDATING …
    target: int  #: how many replicas are wanted
    replicas: tuple[Replica, ...]

    @property
    def running(self) -> dict[str, Replica]:
        """The running replicas by id."""
        return {replica.id: replica for replica in self.replicas if replica.state == RUNNING}

    @property
    def settled(self) -> bool:
        """True if all wanted replicas run, and none starts or stops."""
        return len(self.running) == len(self.replicas) == self.target


def deploying(services: Mapping[str, Service]) -> bool:
    """Tell if any of an application's services is being changed by a deploy."""
    return any(service.status == UPDATING for service in services.values())


@dataclass(frozen=True)
class Lost:
    """A replica that runs no longer."""

    service: str
    replica: Replica
    seen_s: float  #: when it was last seen to run, in seconds of the caller's clock


@dataclass(frozen=True)
class Replaced:
    """A lost replica whose successor runs."""

    lost: Lost
    successor: str  #: its id
    at_s: float


class Replicas:
    """Follows an application's replicas."""

    def __init__(self) -> None:
        self._before: dict[str, Service] = {}
        self._seen: dict[str, float] = {}  # by replica id: when it was last seen to run
        self._awaiting: dict[str, list[Lost]] = {}  # without a successor yet

    def observe(self, services: Mapping[str, Service], now: float) -> tuple[list[Lost], list[Replaced]]:
        """Compare with the look before.

        Args:
            services: By name. Empty (Serve does not answer, or the application is gone) changes nothing.
            now: Seconds of the caller's clock.

        Returns:
            The replicas that were lost since the last look, and the losses that were made good.
        """
        lost: list[Lost] = []
        replaced: list[Replaced] = []
        for name, service in services.items():
            if before := self._before.get(name):
                gone = [
                    Lost(name, replica, self._seen[replica.id])
                    for replica in before.running.values()
                    if replica.id not in service.running and not _on_purpose(before, service)
                ]
                lost += gone
                awaiting = self._awaiting.setdefault(name, [])
                awaiting += gone
                new = [one for one in service.running if one not in self._seen]
                replaced += [Replaced(awaiting.pop(0), successor, now) for successor in new if awaiting]
                if len(service.running) >= service.target:  # as many are wanted no more, so no replica follows
                    awaiting.clear()
            self._seen |= dict.fromkeys(service.running, now)
            self._before[name] = service
        if services:
            self._forget_all_but(services)
        return lost, replaced

    def _forget_all_but(self, services: Mapping[str, Service]) -> None:
        for name in self._before.keys() - services.keys():
            del self._before[name]
            self._awaiting.pop(name, None)
        present = {replica.id for service in services.values() for replica in service.replicas}
        self._seen = {one: at for one, at in self._seen.items() if one in present}


def _on_purpose(before: Service, now: Service) -> bool:
    return now.status in CHANGING or before.status in CHANGING or now.target < before.target
