"""Serve's controller in the simulation: it asks Ray's own policy code, on Ray's own contexts, by a clock of ours.

Serve's default is not written again here. `ray.serve.autoscaling_policy` is called as Serve calls it, with its wrappers
for delays and factors; so is our policy, as the application-level hook. What is made here is what Serve would have
measured: requests in progress as the handles sample and send them, and the reports of the replicas.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import deque
from collections.abc import Iterator
from typing import Any
from unittest import mock

from ray.serve import autoscaling_policy
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve._private.metrics_utils import aggregate_timeseries
from ray.serve.config import AggregationFunction, AutoscalingConfig, AutoscalingContext

from bench.autoscaling.graph import Clock, Graph, Service
from deployments.scaling import serve_policy

TICK_S = 0.5  #: Serve's is 0.1
APP = "cosygraph"


@contextlib.contextmanager
def clock_of(clock: Clock) -> Iterator[None]:
    """Make Serve's policy code and ours see the simulation's time."""
    with (
        mock.patch.object(autoscaling_policy, "time", clock),
        mock.patch.object(serve_policy, "time", clock),
        mock.patch.object(serve_policy, "Events", mock.Mock),
    ):
        yield


class Watched:
    """One service with what Serve has measured of it."""

    def __init__(self, service: Service, config: AutoscalingConfig) -> None:
        self.service = service
        self.config = config
        self.id = DeploymentID(service.spec.name, APP)
        self.state: dict[str, Any] = {}
        self._samples: deque[TimeStampedValue] = deque()
        self._sent: list[TimeStampedValue] = []
        self._stats: dict[str, tuple[ReplicaID, float, dict[str, float]]] = {}

    @property
    def record_every_s(self) -> float:
        return min(0.2 * self.config.look_back_period_s, self.config.metrics_interval_s)

    def sample(self) -> None:
        """Record the requests in progress, as a handle does."""
        self._samples.append(TimeStampedValue(self.service.clock.now, float(self.service.ongoing)))

    def send(self) -> None:
        """Send the samples to the controller, as a handle does."""
        since = self.service.clock.now - self.config.look_back_period_s
        while self._samples and self._samples[0].timestamp < since:
            self._samples.popleft()
        self._sent = list(self._samples)

    def report(self, replica: Any) -> None:
        """Report one replica's work."""
        now = self.service.clock.now
        self._stats[replica.id] = ReplicaID(replica.id, self.id), now, replica.stats()

    def _requests(self) -> float:
        if not self._sent:
            return 0.0
        since_last = max(self.service.clock.now - self._sent[-1].timestamp, 1e-3)
        return aggregate_timeseries(self._sent, AggregationFunction.MEAN, since_last) or 0.0

    def _raw(self) -> dict[str, dict[ReplicaID, list[TimeStampedValue]]]:
        running = {replica.id for replica in self.service.running}
        raw: dict[str, dict[ReplicaID, list[TimeStampedValue]]] = {}
        for name, (id, at, stats) in self._stats.items():
            if name in running:
                for metric, value in stats.items():
                    raw.setdefault(metric, {})[id] = [TimeStampedValue(at, value)]
        return raw

    def context(self) -> AutoscalingContext:
        service, spec = self.service, self.service.spec
        return AutoscalingContext(
            deployment_id=self.id,
            deployment_name=spec.name,
            app_name=APP,
            current_num_replicas=len(service.running),
            target_num_replicas=service.target,
            running_replicas=[],
            total_num_requests=self._requests,
            total_queued_requests=0.0,
            aggregated_metrics=None,
            raw_metrics=self._raw,
            capacity_adjusted_min_replicas=spec.least,
            capacity_adjusted_max_replicas=spec.most,
            policy_state=dict(self.state),
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=service.clock.now,
            config=self.config,
        )

    def apply(self, decision: float) -> int:
        """Scale to a decision, within the bounds, and return the target."""
        spec = self.service.spec
        target = max(spec.least, min(spec.most, math.ceil(decision)))
        self.service.scale(target)
        return target


class Controller:
    """Runs a policy over a graph.

    Args:
        graph: the simulated graph.
        configs: Serve's autoscaling config, by service.
        policy: an application-level policy; None is Serve's default for each deployment.
    """

    def __init__(self, graph: Graph, configs: dict[str, AutoscalingConfig], policy: Any = None) -> None:
        self.graph = graph
        self.watched = [Watched(service, configs[service.spec.name]) for service in graph.services]
        self._chance = random.Random(7)
        self._app = autoscaling_policy._apply_app_level_autoscaling_config(policy) if policy is not None else None
        default: Any = autoscaling_policy.replica_queue_length_autoscaling_policy
        self._default = autoscaling_policy._apply_autoscaling_config(default)
        self.history: list[tuple[float, dict[str, int]]] = []
        for one in self.watched:
            self._every(one.record_every_s, one.sample)
            self._every(one.config.metrics_interval_s, one.send)
            if policy is not None:
                for replica in one.service.running:
                    self._report(one, replica)
                self._watch_starts(one)
        self._every(TICK_S, self._tick)

    def _watch_starts(self, one: Watched) -> None:
        before = one.service.on_start

        def started(replica: Any) -> None:
            before(replica)
            self._report(one, replica)

        one.service.on_start = started

    def _report(self, one: Watched, replica: Any) -> None:
        clock, every_s = self.graph.clock, one.config.metrics_interval_s

        def report() -> None:
            if not replica.stopping:
                one.report(replica)
                clock.at(clock.now + every_s, report)

        clock.at(clock.now + self._chance.uniform(0.1, every_s), report)

    def _every(self, seconds: float, work: Any) -> None:
        clock = self.graph.clock

        def run() -> None:
            work()
            clock.at(clock.now + seconds, run)

        clock.at(clock.now + seconds, run)

    def _tick(self) -> None:
        if self._app is None:
            for one in self.watched:
                decision, one.state = self._default(one.context())
                one.apply(decision)
        else:
            decisions, states = self._app({one.id: one.context() for one in self.watched})
            for one in self.watched:
                one.state = states.get(one.id, {})
                if one.id in decisions:
                    one.apply(decisions[one.id])
        targets = {one.service.spec.name: one.service.target for one in self.watched}
        if not self.history or self.history[-1][1] != targets:
            self.history.append((self.graph.clock.now, targets))
