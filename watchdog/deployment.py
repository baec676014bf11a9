"""The Serve deployment of the watchdog: it runs the checks and carries out the policy's decisions. docs/watchdog.md.

    import_path: watchdog.deployment:build

It is a Serve application of its own, without a route, so that a redeploy of the graph does not touch it. It has one
replica: two would restart everything twice.
"""

# No `from __future__ import annotations` here: Serve reads the builder's type, and would find a string.
import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from ray import serve
from ray.serve import Application

from deployments import serve_log
from deployments.safe_traceback import safe_traceback
from deployments.scaling import events
from tracing import vocabulary
from tracing.vocabulary import FALLBACK, INGRESS
from watchdog import serve_view
from watchdog.budget import Budget
from watchdog.canary import CanaryResult
from watchdog.canary_request import Canary
from watchdog.nodes import LostNode, Nodes
from watchdog.policy import CheckFailed, Decision, Policy, Restart, RestartWithheld, Switch
from watchdog.replicas import Replaced, Replica, Replicas, Service, deploying
from watchdog.reporter import Metrics, Reporter
from watchdog.scaling import Scaled, Scaling
from watchdog.settings import WatchdogSettings

log = logging.getLogger(__name__)

STALLED_AFTER = 10  #: missed looks after which the watchdog itself counts as unhealthy
LOOK_WITHIN_S = 30
SWITCH_WITHIN_S = 10
#: The four steps of one look may honestly take so long while much is going wrong: no time to replace the watchdog.
LONGEST_LOOK_S = 4 * LOOK_WITHIN_S + SWITCH_WITHIN_S
RAY = "ray"  #: the service of actions that are about a node


class Watchdog:
    """Checks the graph, restarts broken replicas, switches traffic to the fallback engine."""

    service = vocabulary.WATCHDOG

    def __init__(self, settings: WatchdogSettings) -> None:
        serve_log.attach()
        self.settings = settings
        self.reporter = Reporter(settings.tracing, serve.get_replica_context().replica_id.unique_id, Metrics())
        self.replicas = Replicas()
        self.nodes = Nodes()
        self.scaling = Scaling(time.time())
        self.services: dict[str, Service] = {}
        self.policy = Policy(
            Budget(settings.restarts_at_most, settings.restarts_within_s, settings.backoff_s),
            failures=settings.failures,
            successes=settings.successes,
            may_restart=settings.on_failure == "restart",
        )
        self.counts = dict.fromkeys(("looks", "canaries", "defects"), 0)
        self._death_causes: dict[str, str] = {}  # by replica id
        self._restarting: dict[str, Restart] = {}  # by the id of the replica that was killed
        self._tasks: list[asyncio.Task[None]] = []
        self._first_look_at_nodes = True
        self._looked_at = time.monotonic()

    async def check_health(self) -> None:
        """Start the checks at Serve's first call, and raise if they have stalled since."""
        if not self._tasks:
            self._http = httpx.AsyncClient(
                base_url=self.settings.api_url, trust_env=False, timeout=self.settings.canary_within_s
            )
            self.canary = Canary(self.settings, self._http)
            self._tasks = [
                self._forever(self._look, lambda: self.settings.check_every_s),
                self._forever(self._check, self._pause),
            ]
        if time.monotonic() - self._looked_at > LONGEST_LOOK_S + STALLED_AFTER * self.settings.check_every_s:
            raise RuntimeError("the watchdog has stopped looking")

    def _forever(self, work: Callable[[], Awaitable[None]], pause_s: Callable[[], float]) -> asyncio.Task[None]:
        async def run() -> None:
            while True:
                await asyncio.sleep(pause_s())
                try:
                    await work()
                except Exception as error:  # the watchdog must outlive everything that it watches
                    self.counts["defects"] += 1
                    log.error("the watchdog failed at something, and goes on: %s", safe_traceback(error))

        return asyncio.get_running_loop().create_task(run(), context=contextvars.Context())

    def _pause(self) -> float:
        return self.settings.check_every_s if self.policy.suspicious else self.settings.canary_every_s

    async def _look(self) -> None:
        """Look at Serve's replicas. While traffic is on the fallback, renew that before it expires."""
        async with asyncio.timeout(LOOK_WITHIN_S):
            self.services = await asyncio.to_thread(serve_view.services, self.settings.app_name)
        now = self._looked_at = time.monotonic()
        self.counts["looks"] += 1
        fallback = self.services.get(FALLBACK)
        self.policy.fallback_ready = fallback is not None and bool(fallback.running)
        lost, replaced = self.replicas.observe(self.services, now)
        await self._find_causes([loss.replica for loss in lost if loss.replica.id not in self._restarting])
        for one in replaced:
            self._report_replaced(one)
        await self._look_at_scaling()
        if self.policy.engine == FALLBACK:
            await self._switch_traffic()
        await self._look_at_nodes()

    async def _find_causes(self, lost: list[Replica]) -> None:
        """Ask why replicas have ended, all at once: a lost node may have had dozens, and each answer takes seconds."""
        if not lost:
            return
        asked = {asyncio.create_task(asyncio.to_thread(serve_view.end_of, replica)): replica for replica in lost}
        answered, late = await asyncio.wait(asked, timeout=LOOK_WITHIN_S)
        self._death_causes |= {asked[task].id: task.result() for task in answered}
        if late:
            log.warning("why %d of %d replicas ended could not be found out in time", len(late), len(lost))

    async def _look_at_scaling(self) -> None:
        """Look at the targets. A change is reported when it is carried out."""
        changes = []
        if self.scaling.changed(self.services):
            changes = await asyncio.to_thread(events.read, self.settings.app_name)
        now = time.time()
        for scaled in self.scaling.observe(self.services, changes, now, deploying=deploying(self.services)):
            self._report_scaled(scaled, now)

    def _report_scaled(self, scaled: Scaled, now: float) -> None:
        name = "SCALED_UP" if scaled.after > scaled.before else "SCALED_DOWN"
        tags = {
            vocabulary.SCALING_FROM: scaled.before,
            vocabulary.SCALING_TO: scaled.after,
            vocabulary.SCALING_RATE: scaled.rate,
            vocabulary.SCALING_QUEUE: scaled.queue,
            vocabulary.SCALING_WAIT_MS: None if scaled.wait_s is None else round(scaled.wait_s * 1000),
            vocabulary.SCALING_REACHED: "true" if scaled.reached else "false",
        }
        self.reporter.action(name, scaled.cause, scaled.service, int(scaled.began_s * 1e9), int(now * 1e9), tags)

    async def _look_at_nodes(self) -> None:
        """Look at Ray's nodes. A lost one is reported when Ray counts it as dead, and again when it is made up for."""
        async with asyncio.timeout(LOOK_WITHIN_S):
            ended = await asyncio.to_thread(serve_view.nodes_ended) if self._first_look_at_nodes else None
            nodes = await asyncio.to_thread(serve_view.nodes)
            silent = await serve_view.silent(nodes)
        self._first_look_at_nodes = False
        now = time.time()
        for lost in self.nodes.observe(nodes, now, silent, ended):
            self.reporter.node_lost(lost.node.address, lost.node.cause)
            self._report_node("NODE_LOST", lost, now, failed=True)
        for restored in self.nodes.restored(self.services):
            self._report_node("CAPACITY_RESTORED", restored, now)

    def _report_node(self, name: str, lost: LostNode, now: float, *, failed: bool = False) -> None:
        tags = {vocabulary.WATCHDOG_NODE: lost.node.id, vocabulary.WATCHDOG_NODE_ADDRESS: lost.node.address}
        self.reporter.action(name, lost.node.cause, RAY, int(lost.seen_s * 1e9), int(now * 1e9), tags, failed=failed)

    async def _check(self) -> None:
        if not self.services:
            return
        result = await self.canary.send(self.services)
        self.counts["canaries"] += 1
        self.reporter.canary(result)
        suspect = None if result.ok or result.service else await self.canary.unready_service()
        service = self.services.get(result.service or suspect or INGRESS)
        settled = service is not None and service.settled and not deploying(self.services)
        for decision in self.policy.observe(result, suspect, settled, time.monotonic()):
            await self._carry_out(decision, result)

    async def _carry_out(self, decision: Decision, result: CanaryResult) -> None:
        now = time.time_ns()
        failures = {vocabulary.WATCHDOG_FAILURES: decision.failures}
        match decision:
            case CheckFailed():
                self.reporter.action(
                    "CHECK_FAILED",
                    f"canary_{result.outcome}",
                    result.service or INGRESS,
                    result.began_ns,
                    result.ended_ns,
                    failures | {vocabulary.CANARY_TRACE_ID: result.trace_id},
                    failed=True,
                )
            case Switch():
                tags = failures | {vocabulary.WATCHDOG_LINE: decision.engine}
                self.reporter.action("TRAFFIC_SWITCHED", decision.cause, INGRESS, decision.since_ns, now, tags)
                await self._switch_traffic()
            case RestartWithheld():
                self.reporter.action(
                    "RESTART_WITHHELD",
                    decision.cause,
                    decision.service,
                    decision.since_ns,
                    now,
                    failures,
                    failed=True,
                )
            case Restart():
                await self._restart(decision)

    async def _restart(self, decision: Restart) -> None:
        service = self.services.get(decision.service)
        replica = await asyncio.to_thread(serve_view.at_fault, service) if service is not None else None
        if replica is None:
            log.warning("watchdog: %s has no replica that could be restarted", decision.service)
            return
        self._restarting[replica.id] = decision  # reported as soon as its successor runs
        log.warning("watchdog: restarting %s of %s, %s", replica.id, decision.service, decision.cause)
        try:
            await asyncio.to_thread(serve_view.kill, replica)
        except Exception as error:
            del self._restarting[replica.id]  # or a later loss of it would be reported as our doing
            if not isinstance(error, ValueError):  # it was gone already
                raise

    def _report_replaced(self, one: Replaced) -> None:
        replica, ended_ns = one.lost.replica.id, time.time_ns()
        tags: dict[str, Any] = {vocabulary.REPLICA_ID: replica}
        if restart := self._restarting.pop(replica, None):
            tags[vocabulary.WATCHDOG_FAILURES] = restart.failures
            self.reporter.action("REPLICA_RESTARTED", restart.cause, restart.service, restart.since_ns, ended_ns, tags)
            return
        began_ns = ended_ns - int((one.at_s - one.lost.seen_s) * 1e9)
        cause = self._death_causes.pop(replica, "gone")
        self.reporter.action("REPLICA_REPLACED", cause, one.lost.service, began_ns, ended_ns, tags)

    async def _switch_traffic(self) -> None:
        """Tell every ingress which engine to use, until a canary and a few looks more could have come."""
        self.reporter.engine(self.policy.engine == FALLBACK)
        for_s = self.settings.canary_within_s + STALLED_AFTER * self.settings.check_every_s
        try:
            async with asyncio.timeout(SWITCH_WITHIN_S):
                handle = serve.get_deployment_handle(INGRESS, self.settings.app_name)
                await handle.broadcast("switch_backend", self.policy.engine, for_s).results_async()
        except Exception as error:
            log.warning("not every ingress could be told which engine to use: %s", safe_traceback(error))

    async def counters(self) -> dict[str, Any]:
        """Return counters for tests and operators, through a handle."""
        return {
            **self.counts,
            "engine": self.policy.engine,
            "failures": self.policy.failures,
            **self.reporter.exporter.flat_counters(),
        }

    def __del__(self) -> None:
        if reporter := getattr(self, "reporter", None):  # absent if the constructor failed
            reporter.close()


def build(args: WatchdogSettings) -> Application:
    """Build the application from a Serve config's `args`."""
    return serve.deployment(
        name=Watchdog.service,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.05},
        health_check_period_s=3,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
    )(Watchdog).bind(args)
