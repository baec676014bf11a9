"""The graph as a discrete-event simulation: an ingress and four stages, with replicas that start, batch and stop.

What is as in the real graph: the ingress admits so many requests a replica, and refuses beyond a short queue; each call
goes to the shorter of two replicas' queues and stays there; a stage takes its whole backlog, up to its batch size, when
its compute thread is free; a replica that is stopped takes no more requests and finishes those it has; one that is
asked for runs after its start-up time. What is left out: lingering for company, failures, the network, and replicas
that dispute one device.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deployments.scaling.work_log import WorkLog


@dataclass(frozen=True)
class Spec:
    """A service.

    Attributes:
        name: of the deployment.
        base_s: seconds of a step, whatever its members.
        each_s: seconds that a member adds, on average.
        spread: of that, from request to request: sigma of a lognormal factor with mean 1.
        batch: most members of a step.
        lanes: steps at a time.
        startup_s: from the request for a replica until it runs; a fifth more or less.
        least: `min_replicas`.
        most: `max_replicas`.
        ongoing: `target_ongoing_requests`.
    """

    name: str
    base_s: float
    each_s: float
    startup_s: float
    least: int
    most: int
    ongoing: float
    batch: int = 1
    lanes: int = 1
    spread: float = 0.0


INGRESS = "cosyvoice3-api"
#: Replica counts and targets as in cluster/serve.cluster.yaml. The times are stated, not measured.
SPECS = (
    Spec(INGRESS, 0.0, 0.020, 6, 2, 16, 32),
    Spec("audio-service", 0.0, 0.025, 5, 2, 8, 8, lanes=2, spread=0.3),
    Spec("embedding-service", 0.015, 0.005, 10, 2, 8, 16, batch=8),
    Spec("tts-service", 0.400, 0.120, 25, 2, 16, 8, batch=8, spread=0.4),
    Spec("vocoder-service", 0.060, 0.040, 12, 2, 8, 16, batch=8, spread=0.4),
)
MAX_IN_FLIGHT, MAX_WAITING, MAX_WAIT_S, DEADLINE_S = 128, 128, 10.0, 60.0


class Clock:
    """Runs events in the order of their moments."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    monotonic = time

    def at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = max(self.now, until)


class Request:
    __slots__ = ("came_s", "entry", "queued_s", "work", "then", "ended_s", "ok")

    def __init__(self, came_s: float) -> None:
        self.came_s = came_s
        self.entry: Replica | None = None
        self.queued_s = 0.0
        self.work = 1.0
        self.then: Callable[[Request], None] = _nothing
        self.ended_s = float("nan")
        self.ok = False


def _nothing(request: Request) -> None:
    pass


class Replica:
    """One replica: a queue and its lanes."""

    def __init__(self, service: Service, number: int) -> None:
        self.service = service
        self.id = f"{service.spec.name}-{number}"
        self.asked_s = service.clock.now
        self.queue: deque[Request] = deque()
        self.ongoing = 0
        self.in_lanes = 0
        self.lanes_free = service.spec.lanes
        self.stopping = False
        self.log = WorkLog(service.clock.time)
        # of an ingress:
        self.in_flight = 0
        self.waiting: deque[Request] = deque()
        self.cpu_s = 0.0

    def take(self, request: Request) -> None:
        self.ongoing += 1
        request.queued_s = self.service.clock.now
        if not self.service.entry:
            self.log.arrive()
        self.queue.append(request)
        self._start()

    def _start(self) -> None:
        spec, clock, chance = self.service.spec, self.service.clock, self.service.chance
        while self.lanes_free and self.queue:
            batch = [self.queue.popleft() for _ in range(min(spec.batch, len(self.queue)))]
            seconds = spec.base_s
            for request in batch:
                factor = chance.lognormvariate(-(spec.spread**2) / 2, spec.spread) if spec.spread else 1.0
                seconds += spec.each_s * factor * request.work
                self.log.wait(clock.now - request.queued_s)
            self.lanes_free -= 1
            self.in_lanes += len(batch)
            clock.at(clock.now + seconds, lambda batch=batch, seconds=seconds: self._end(batch, seconds))  # type: ignore[misc]

    def _end(self, batch: list[Request], seconds: float) -> None:
        self.lanes_free += 1
        self.in_lanes -= len(batch)
        if self.service.entry:
            self.cpu_s += seconds
        else:
            self.log.step(len(batch), seconds)
            self.log.finish(len(batch))
        self.ongoing -= len(batch)
        for request in batch:
            request.then(request)
        self._start()
        self.service.ended_if_empty(self)

    @property
    def empty(self) -> bool:
        return not self.ongoing and not self.in_flight and not self.waiting

    def stats(self) -> dict[str, float]:
        if self.service.entry:
            return self.log.stats(
                waiting=len(self.waiting), computing=self.in_flight, limit=MAX_IN_FLIGHT, cpu_s=self.cpu_s
            )
        spec = self.service.spec
        return self.log.stats(waiting=len(self.queue), computing=self.in_lanes, batch=spec.batch, lanes=spec.lanes)


@dataclass
class Service:
    """One service and its replicas."""

    spec: Spec
    clock: Clock
    chance: random.Random
    entry: bool = False
    running: list[Replica] = field(default_factory=list)
    starting: list[Replica] = field(default_factory=list)
    stopping: list[Replica] = field(default_factory=list)
    replica_s: float = 0.0
    pending: deque[Request] = field(default_factory=deque)
    ids: Any = field(default_factory=itertools.count)
    on_start: Callable[[Replica], None] = lambda replica: None  # noqa: E731

    def __post_init__(self) -> None:
        for _ in range(self.spec.least):
            self._runs(self._new())

    @property
    def target(self) -> int:
        return len(self.running) + len(self.starting)

    @property
    def ongoing(self) -> int:
        """Requests that handles count: those at running replicas, and those without one."""
        return sum(replica.in_flight + len(replica.waiting) if self.entry else replica.ongoing
                   for replica in self.running) + len(self.pending)  # fmt: skip

    def _new(self) -> Replica:
        replica = Replica(self, next(self.ids))
        self.starting.append(replica)
        return replica

    def _runs(self, replica: Replica) -> None:
        if replica not in self.starting:
            return  # it was stopped before
        self.starting.remove(replica)
        self.running.append(replica)
        replica.log = WorkLog(self.clock.time)
        self.on_start(replica)
        while self.pending:
            self.call(self.pending.popleft())

    def scale(self, target: int) -> None:
        while self.target < target:
            replica = self._new()
            delay = self.spec.startup_s * self.chance.uniform(0.8, 1.2)
            self.clock.at(self.clock.now + delay, lambda replica=replica: self._runs(replica))  # type: ignore[misc]
        while self.target > target:
            if self.starting:
                self._ended(self.starting.pop())
                continue
            replica = self.running.pop(self.chance.randrange(len(self.running)))
            replica.stopping = True
            self.stopping.append(replica)
            self.ended_if_empty(replica)

    def ended_if_empty(self, replica: Replica) -> None:
        if replica.stopping and replica.empty and replica in self.stopping:
            self.stopping.remove(replica)
            self._ended(replica)

    def _ended(self, replica: Replica) -> None:
        self.replica_s += self.clock.now - replica.asked_s

    def pick(self) -> Replica | None:
        """Return the less busy of two replicas drawn by lot."""
        if not self.running:
            return None
        one = self.running[self.chance.randrange(len(self.running))]
        other = self.running[self.chance.randrange(len(self.running))]
        if self.entry:
            return min(one, other, key=lambda replica: replica.in_flight + len(replica.waiting))
        return one if one.ongoing <= other.ongoing else other

    def call(self, request: Request) -> None:
        replica = self.pick()
        if replica is None:
            self.pending.append(request)
        else:
            replica.take(request)

    def seconds_until(self, now: float) -> float:
        """Return the replica-seconds used so far."""
        alive = (*self.running, *self.starting, *self.stopping)
        return self.replica_s + sum(now - replica.asked_s for replica in alive)


class Graph:
    """The whole graph, under a load."""

    def __init__(self, specs: tuple[Spec, ...] = SPECS, seed: int = 1) -> None:
        self.clock = Clock()
        self.services = [
            Service(spec, self.clock, random.Random(f"{seed} {spec.name}"), entry=not number)
            for number, spec in enumerate(specs)
        ]
        self.entry, *self.stages = self.services
        self.entry.on_start = self._ingress_runs
        self.requests: list[Request] = []
        self._held: deque[Request] = deque()  # of a graph without an ingress

    def arrive(self) -> None:
        """Let a request come now."""
        request = Request(self.clock.now)
        self.requests.append(request)
        self._enter(request)

    def _ingress_runs(self, replica: Replica) -> None:
        while self._held:
            self._enter(self._held.popleft())

    def _enter(self, request: Request) -> None:
        replica = self.entry.pick()
        if replica is None:
            self._held.append(request)
            return
        request.entry = replica
        replica.log.arrive()
        if replica.in_flight < MAX_IN_FLIGHT:
            self._admit(request)
        elif len(replica.waiting) < MAX_WAITING:
            replica.waiting.append(request)
            self.clock.at(self.clock.now + MAX_WAIT_S, lambda: self._refuse(request))
        else:
            self._over(request, ok=False)

    def _refuse(self, request: Request) -> None:
        if request.entry is not None and request in request.entry.waiting:
            request.entry.waiting.remove(request)
            self._over(request, ok=False)
            self.entry.ended_if_empty(request.entry)

    def _admit(self, request: Request) -> None:
        assert request.entry is not None
        request.entry.in_flight += 1
        request.work = 0.4  # reading the upload; the rest is the answer
        request.then = lambda request: self._stage(request, 0)
        request.entry.take(request)

    def _stage(self, request: Request, number: int) -> None:
        request.work = 1.0
        if number == len(self.stages):
            assert request.entry is not None
            request.work, request.then = 0.6, self._leave
            request.entry.take(request)
            return
        request.then = lambda request: self._stage(request, number + 1)
        self.stages[number].call(request)

    def _leave(self, request: Request) -> None:
        replica = request.entry
        assert replica is not None
        replica.in_flight -= 1
        replica.log.finish()
        self._over(request, ok=True)
        if replica.waiting:
            self._admit(replica.waiting.popleft())

    def _over(self, request: Request, ok: bool) -> None:
        request.ended_s = self.clock.now
        request.ok = ok and self.clock.now - request.came_s <= DEADLINE_S
