"""Follows the targets of services that are scaled, and tells each change with its cause when it is carried out.

The causes are the scaling policy's (`deployments/scaling/events.py` leaves them for us). A change of which the policy
says nothing is Serve's own doing: its default policy, or a new config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from watchdog.replicas import Service

#: A change that is not carried out for so long is told as it stands.
GIVEN_UP_S = 600.0
SERVE = "serve"


class Change(Protocol):
    """A change of a target, as the policy tells it (`deployments.scaling.policy.Change`)."""

    @property
    def service(self) -> str: ...
    @property
    def before(self) -> int: ...
    @property
    def after(self) -> int: ...
    @property
    def cause(self) -> str: ...
    @property
    def at_s(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def queue(self) -> int: ...
    @property
    def wait_s(self) -> float: ...


@dataclass(frozen=True)
class Scaled:
    """A change of a target that is over.

    Attributes:
        service: the deployment.
        before: replicas wanted before.
        after: replicas wanted since.
        cause: the policy's, or `SERVE`.
        began_s: when it was decided, in seconds since the epoch.
        reached: as many replicas run; False if another change came first, or none of this came in time.
        rate: requests a second that the service was sized for; None if the policy did not say.
        queue: requests that waited; None if the policy did not say.
        wait_s: the wait that the policy predicts for all services together; None if it did not say.
    """

    service: str
    before: int
    after: int
    cause: str
    began_s: float
    reached: bool = False
    rate: float | None = None
    queue: int | None = None
    wait_s: float | None = None


class Scaling:
    """Follows one application's targets.

    Args:
        now: seconds since the epoch. What was decided before is not told: another watchdog saw it, or none.
    """

    def __init__(self, now: float) -> None:
        self._told_s = now
        self._targets: dict[str, int] = {}
        self._pending: list[Scaled] = []

    def changed(self, services: Mapping[str, Service]) -> bool:
        """Tell if a target is another than at the last look: only then is there news to be read."""
        return any(self._targets.get(name, service.target) != service.target for name, service in services.items())

    def observe(
        self, services: Mapping[str, Service], changes: Sequence[Change], now: float, *, deploying: bool
    ) -> list[Scaled]:
        """Compare with the look before, and return the changes that are over.

        Args:
            services: by name.
            changes: the policy's last ones, the oldest first; those that are known are passed over.
            now: seconds since the epoch.
            deploying: the application is being changed by a deploy; its new targets are no scaling.
        """
        told = [change for change in changes if change.at_s > self._told_s and change.service in services]
        over: list[Scaled] = []
        for change in told:
            self._told_s = change.at_s
            over += self._superseded(change.service)
            self._pending.append(
                Scaled(
                    change.service,
                    change.before,
                    change.after,
                    change.cause,
                    change.at_s,
                    rate=change.rate,
                    queue=change.queue,
                    wait_s=change.wait_s,
                )  # fmt: skip
            )
        explained = {change.service: change.after for change in told}
        for name, service in services.items():
            before = self._targets.get(name, service.target)
            if service.target not in (before, explained.get(name)) and not deploying:
                if any(one.service == name and one.after == service.target for one in self._pending):
                    continue  # told at the look before, a moment before Serve had it
                over += self._superseded(name)
                self._pending.append(Scaled(name, before, service.target, SERVE, now))
        self._targets = {name: service.target for name, service in services.items()}
        for one in list(self._pending):
            found = services.get(one.service)
            reached = found is not None and _reached(one, found)
            if reached or now - one.began_s > GIVEN_UP_S:
                self._pending.remove(one)
                over.append(_ended(one, reached))
        return over

    def _superseded(self, service: str) -> list[Scaled]:
        gone = [one for one in self._pending if one.service == service]
        self._pending = [one for one in self._pending if one.service != service]
        return [_ended(one, False) for one in gone]


def _reached(one: Scaled, service: Service) -> bool:
    if one.after >= one.before:
        return len(service.running) >= one.after
    return len(service.replicas) <= one.after


def _ended(one: Scaled, reached: bool) -> Scaled:
    return replace(one, reached=reached)
