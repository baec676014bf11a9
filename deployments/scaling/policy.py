"""Decides how many replicas each service has. No Ray in here, no clock, no I/O: figures in, figures out.

- **Demand.** Requests are counted where they enter, at the ingress. How many of them reach each service is learned
  (cached voices skip two of the stages). So a service is sized for what is on its way, before it arrives there.
- **Supply.** What a batch costs, by its size, is learned from the replicas' reports (`capacity.py`).
- **Sizes.** Each service gets what it needs to keep up. Then a replica is added where it saves the most waiting for its
  cost, until the predicted waits of all services together are within `wait_s`.
- **Queues.** A queue that has built up lies in the replicas that took it, and new ones cannot take it over. They serve
  all that comes meanwhile. So a queue asks for at most as much more as the replicas that hold it are worth.
- **Down.** A service shrinks to the most that was needed within `hold_s`, for `SPARE` more requests than come. So a dip
  costs no replica, and a load between two sizes does not make a service grow and shrink in turn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from deployments.scaling.capacity import NEVER, Station, StepCost
from deployments.scaling.demand import Arrivals
from deployments.scaling.settings import ScalingSettings
from deployments.scaling.work_log import Work

#: A replica that has not reported for so long is not waited for.
SILENT_S = 15.0
#: A replica that is first seen at this age was there before the policy: its counts so far are no news.
NEW_S = 30.0
#: Of the requests that an ingress lets in, so many are taken for its share; the rest is for fluctuation.
LIMIT_SHARE = 0.8
#: Requests after which older ones count half, where it is learned how many of them reach a service.
VISITS_FADE = 2000.0
VISITS_PRIOR = 20.0
SET_BACK_S = 5.0  #: a clock that goes back by more was set: what is remembered with its time lies in the future
SPARE = 0.15  #: a service shrinks only to a size that would do for so many more requests
FULL_SHARE = 0.9  #: a service that keeps up has at most this share of its capacity in use
GAIN_S = 1e-3  #: a replica that saves less waiting than this is not added


@dataclass(frozen=True)
class ServiceView:
    """A service at one moment, as Serve knows it.

    Attributes:
        name: of the deployment.
        running: replicas that run.
        target: replicas that are wanted.
        least: `min_replicas`.
        most: `max_replicas`.
        reports: by replica: when it reported last, in seconds of the caller's clock, and what.
    """

    name: str
    running: int
    target: int
    least: int
    most: int
    reports: Mapping[str, tuple[float, Work]]


@dataclass(frozen=True)
class Change:
    """A target that the policy has changed.

    Attributes:
        service: the deployment.
        before: replicas wanted before.
        after: replicas wanted now.
        cause: arrivals, trend (they climb steadily), queue (one has built up), in_flight (the ingress is at its limit),
            bounds (min_replicas or max_replicas), less_load, or idle.
        at_s: the caller's clock.
        rate: requests a second that it was sized for.
        queue: requests that waited.
        wait_s: the predicted wait with the new number, of all services together.
    """

    service: str
    before: int
    after: int
    cause: str
    at_s: float
    rate: float
    queue: int
    wait_s: float


@dataclass(frozen=True)
class Decision:
    """Targets by service, and those of them that are new."""

    targets: Mapping[str, int]
    changes: Sequence[Change] = ()


@dataclass
class _Service:
    """Remembers a service between two decisions."""

    startup_s: float
    cost: StepCost = field(default_factory=StepCost)
    arrivals: Arrivals = field(default_factory=Arrivals)
    last: dict[str, tuple[float, Work]] = field(default_factory=dict)
    done: float = 0.0  # requests, fading: against the ingress's, how many of them reach this service
    members: float = 0.0
    finished: float = 0.0
    known_until_s: float = 0.0
    busy_at_s: float = 0.0  # when it last had a request
    starting: deque[float] = field(default_factory=deque)  # when each replica that does not run yet was asked for
    running: int = 0
    needed: deque[tuple[float, int]] = field(default_factory=deque)  # falling: when so many were last needed

    def begun_anew(self, view: ServiceView, now: float) -> _Service:
        """Return a service that knows what this one has learned, and nothing that has a time."""
        return _Service(
            self.startup_s,
            self.cost,
            done=self.done,
            members=self.members,
            finished=self.finished,
            busy_at_s=now,
            running=self.running,
            needed=deque([(now, view.target)]),
        )

    def observe(self, view: ServiceView, now: float) -> float:
        """Take in new reports, and return the requests that were finished since the last ones."""
        finished = 0.0
        for replica, (at_s, work) in view.reports.items():
            before = self.last.get(replica)
            if before is not None and at_s <= before[0]:
                continue
            if before is None and work.age_s > NEW_S:
                self.last[replica] = at_s, work
                continue
            since_s, old = before or (at_s - max(work.age_s, 1e-3), Work())
            self.last[replica] = at_s, work
            self.arrivals.add(work.arrived - old.arrived, since_s, at_s)
            steps, members = work.steps - old.steps, work.members - old.members
            self.cost.learn(steps, members, work.busy_s - old.busy_s, at_s)
            done = max(0.0, work.done - old.done)
            fade = 0.5 ** (done / VISITS_FADE)
            self.members = self.members * fade + max(0.0, members)
            self.finished = self.finished * fade + done
            finished += done
            if work.arrived > old.arrived or work.waiting or work.computing:
                self.busy_at_s = at_s
        self.last = {replica: one for replica, one in self.last.items() if replica in view.reports}
        lately = [at_s for at_s, _ in self.last.values() if now - at_s < SILENT_S]
        self.known_until_s = min(lately, default=now)
        if view.target > 0 and (not view.running or not self.running):
            self.busy_at_s = now  # Serve has started it for a request, which may reach it after its first report
        self._follow_starts(view, now)
        return finished

    def _follow_starts(self, view: ServiceView, now: float) -> None:
        for _ in range(max(0, view.running - self.running)):
            if self.starting:
                self.startup_s += 0.3 * (now - self.starting.popleft() - self.startup_s)
        self.running = view.running
        lacking = max(0, view.target - view.running)
        while len(self.starting) > lacking:
            self.starting.pop()
        while len(self.starting) < lacking:
            self.starting.append(now)

    def left_to_start_s(self, now: float) -> float:
        """Return the seconds until more replicas run: those asked for first, or else one that is asked for now."""
        return max(0.0, self.startup_s - (now - self.starting[0])) if self.starting else self.startup_s

    def now(self) -> tuple[float, float, Work | None]:
        """Return the requests that wait, those that are computed, and one of the last reports."""
        works = [work for _, work in self.last.values()]
        return sum(one.waiting for one in works), sum(one.computing for one in works), works[0] if works else None

    def most_needed(self, now: float, replicas: int, hold_s: float) -> int:
        """Note how many replicas are needed now, and return the most that were within `hold_s`."""
        while self.needed and self.needed[-1][1] <= replicas:
            self.needed.pop()
        self.needed.append((now, replicas))
        while self.needed[0][0] < now - hold_s:
            self.needed.popleft()
        return self.needed[0][1]


@dataclass
class _Plan:
    """A service's sizing, under way."""

    view: ServiceView
    station: Station
    rate: float
    queue: int
    cost: float
    cause: str
    inside: int  # replicas that the requests inside need, whatever their rate
    replicas: int = 1
    wait_s: float = 0.0
    gain_s: float = 0.0
    next_wait_s: float = 0.0  # with one replica more

    def least(self, times: float = 1.0) -> int:
        """Return the replicas that keep up with so many times the rate, within the bounds."""
        keeps_up = math.ceil(self.rate * times / self.station.capacity / FULL_SHARE)
        return max(1, min(max(self.view.least, keeps_up, self.inside), self.view.most))

    def reckon(self) -> None:
        self.wait_s = self.station.excess_s(self.rate, self.replicas)
        self._look_ahead()

    def grow(self) -> None:
        self.replicas += 1
        self.wait_s = self.next_wait_s
        self._look_ahead()

    def _look_ahead(self) -> None:
        bounded = self.replicas >= self.view.most
        self.next_wait_s = self.wait_s if bounded else self.station.excess_s(self.rate, self.replicas + 1)
        self.gain_s = (self.wait_s - self.next_wait_s) / self.cost


class ScalingPolicy:
    """Sizes the services of one application together.

    Args:
        settings: what is wanted.
        ingress: the service where requests enter.
    """

    def __init__(self, settings: ScalingSettings, ingress: str) -> None:
        self.settings = settings
        self._ingress = ingress
        self._services: dict[str, _Service] = {}
        self._entered = VISITS_PRIOR  # requests that left the ingress, fading
        self._decided_s = -math.inf

    def decide(self, now: float, views: Sequence[ServiceView]) -> Decision:
        """Return the targets.

        Args:
            now: seconds; the clock of the reports.
            views: the services. One that is missing is left alone.

        Returns:
            The target of each service in `views`. A service that has not computed yet keeps its own.
        """
        for name in self._services.keys() - {view.name for view in views}:
            del self._services[name]
        if now < self._decided_s - SET_BACK_S:
            for view in views:
                if view.name in self._services:
                    self._services[view.name] = self._services[view.name].begun_anew(view, now)
        self._decided_s = now
        finished = {view.name: self._observe(view, now) for view in views}
        entered = finished.get(self._ingress, 0.0)
        fade = 0.5 ** (entered / VISITS_FADE)
        self._entered = self._entered * fade + entered
        for name, count in finished.items():
            service = self._services[name]
            service.done = service.done * fade + count
        plans = [plan for view in views if (plan := self._plan(view, now)) is not None]
        spare = [replace(plan, rate=plan.rate * (1 + SPARE), replicas=plan.least(1 + SPARE)) for plan in plans]
        for sized in (plans, spare):
            for plan in sized:
                plan.reckon()
            self._share_out(sized)
        wait_s = sum(plan.wait_s for plan in plans)
        targets = {view.name: min(max(view.target, view.least), view.most) for view in views}
        changes = []
        for plan, with_spare in zip(plans, spare, strict=True):
            change = self._settle(plan, with_spare.replicas, now, wait_s)
            targets[plan.view.name] = change.after
            if change.after != change.before:
                changes.append(change)
        return Decision(targets, changes)

    def _observe(self, view: ServiceView, now: float) -> float:
        if view.name not in self._services:
            service = _Service(self.settings.startup_s, running=view.running, done=VISITS_PRIOR, busy_at_s=now)
            service.needed.append((now, view.target))  # or a policy that has just started would stop replicas at once
            self._services[view.name] = service
        return self._services[view.name].observe(view, now)

    def _plan(self, view: ServiceView, now: float) -> _Plan | None:
        service = self._services[view.name]
        waiting, computing, work = service.now()
        if work is None or not service.cost.known:
            return None
        station = Station(
            service.cost.base,
            service.cost.per_member,
            max(1, round(work.batch)),
            max(1, round(work.lanes)),
            service.members / service.finished if service.finished > 0 and service.members > 0 else 1.0,
        )
        rate, cause = self._demand(view.name, service, now)
        normal = rate * min(self.settings.wait_s, station.step_s(station.batch))
        catching_up = view.running * station.capacity
        queue = waiting - normal + (rate - catching_up) * service.left_to_start_s(now)
        if work.limit <= 0 and waiting > normal and queue > 0:
            more = min(queue / self.settings.drain_s, catching_up)
            cause = "queue" if more > 0.2 * rate else cause
            rate += more
        inside = math.ceil((waiting + computing) / (LIMIT_SHARE * work.limit)) if work.limit > 0 else 0
        plan = _Plan(view, station, rate, round(waiting), self.settings.cost.get(view.name, 1.0), cause, 0)
        if inside > plan.least():
            plan.cause = "in_flight"
        plan.inside = inside
        plan.replicas = plan.least()
        return plan

    def _demand(self, name: str, service: _Service, now: float) -> tuple[float, str]:
        """Return the rate to size a service for, and what it comes from."""
        entry = self._services.get(self._ingress)
        own = service.arrivals.usual(service.known_until_s)
        if entry is None:
            return own, "arrivals"
        visits = 1.0 if name == self._ingress else service.done / max(self._entered, 1.0)
        usual = entry.arrivals.usual(entry.known_until_s)
        lead = max(one.startup_s for one in self._services.values()) + now - entry.known_until_s
        ahead = entry.arrivals.ahead(entry.known_until_s, lead)
        rate = max(own, usual * visits)
        return (ahead * visits, "trend") if ahead * visits > rate else (rate, "arrivals")

    def _share_out(self, plans: Sequence[_Plan]) -> None:
        """Add replicas, each where it saves the most for its cost, until the wait is as wanted."""
        while sum(map(self._counted_s, plans)) > self.settings.wait_s:
            best = max(plans, key=lambda plan: plan.gain_s)
            if best.gain_s < GAIN_S:
                return
            best.grow()

    def _counted_s(self, plan: _Plan) -> float:
        """Return a service's wait, of one at its `max_replicas` half of all at most: others can't make up for it."""
        return plan.wait_s if plan.replicas < plan.view.most else min(plan.wait_s, self.settings.wait_s / 2)

    def _settle(self, plan: _Plan, with_spare: int, now: float, wait_s: float) -> Change:
        view, service = plan.view, self._services[plan.view.name]
        enough = service.most_needed(now, max(with_spare, plan.replicas), self.settings.hold_s)
        after = max(plan.replicas, min(enough, view.target))
        cause = plan.cause
        if view.least == 0 and now - service.busy_at_s >= self.settings.idle_s:
            after, cause = 0, "idle"
        elif after < view.target:
            cause = "less_load"
        bounded = min(max(after, view.least), view.most)
        if not view.least <= view.target <= view.most:
            cause = "bounds"
        return Change(
            view.name, view.target, bounded, cause, now, round(plan.rate, 3), plan.queue, round(min(wait_s, NEVER), 3)
        )
