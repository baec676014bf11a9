"""watchdog: checks the graph as a client would, follows its replicas, and does what is to be done. docs/watchdog.md.

    import_path: watchdog.deployment:build

A Serve application of its own, without a route, so that a redeploy of the graph does not touch it. One replica: two
would restart everything twice.
"""

# No `from __future__ import annotations` here: Serve reads the builder's type, and would find a string.
import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable

import httpx
from ray import serve
from ray.serve import Application

from deployments.safe_traceback import safe_traceback
from watchdog import serve_view
from watchdog.budget import Budget
from watchdog.canary import CanaryResult
from watchdog.canary_request import INGRESS, Canary
from watchdog.policy import FALLBACK, CheckFailed, Policy, Restart, Switch, Withheld
from watchdog.replicas import Replaced, Replicas, deploying
from watchdog.reporter import Metrics, Reporter
from watchdog.settings import WatchdogSettings

log = logging.getLogger("ray.serve")

STALLED_AFTER = 10  #: looks that did not come: the watchdog itself is ill


class Watchdog:
    service = "watchdog"

    def __init__(self, settings: WatchdogSettings) -> None:
        self.settings = settings
        self.told = Reporter(settings.tracing, serve.get_replica_context().replica_id.unique_id, Metrics())
        self.replicas = Replicas()
        self.services: dict = {}
        self.judge = Policy(settings, Budget(settings.restarts_at_most, settings.restarts_within_s, settings.backoff_s))
        self.counts = dict.fromkeys(("looks", "canaries", "defects"), 0)
        self._ends: dict[str, str] = {}  # why each lost replica ended
        self._restarted: dict[str, Restart] = {}  # by the replica that was
        self._tasks: list[asyncio.Task] = []
        self._looked = time.monotonic()

    async def check_health(self) -> None:
        """Serve asks from the beginning: that is when the watching starts."""
        if not self._tasks:
            self._http = httpx.AsyncClient(
                base_url=self.settings.api_url, trust_env=False, timeout=self.settings.canary_within_s
            )
            self.canary = Canary(self.settings, self._http)
            self._tasks = [
                self._forever(self._look, lambda: self.settings.check_every_s),
                self._forever(self._check, self._pause),
            ]
        if time.monotonic() - self._looked > STALLED_AFTER * self.settings.check_every_s:
            raise RuntimeError("the watchdog has stopped looking")

    def _forever(self, work: Callable[[], Awaitable[None]], pause_s: Callable[[], float]) -> asyncio.Task:
        async def run() -> None:
            while True:
                await asyncio.sleep(pause_s())
                try:
                    await work()
                except Exception as error:  # it must outlive whatever it looks at
                    self.counts["defects"] += 1
                    log.error("the watchdog failed at something, and goes on: %s", safe_traceback(error))

        return asyncio.get_running_loop().create_task(run(), context=contextvars.Context())

    def _pause(self) -> float:
        return self.settings.check_every_s if self.judge.suspicious else self.settings.canary_every_s

    async def _look(self) -> None:
        """At Serve's replicas; and what was steered is said again, before its lease runs out."""
        async with asyncio.timeout(30):
            self.services = await asyncio.to_thread(serve_view.services, self.settings.app_name)
        now = self._looked = time.monotonic()
        self.counts["looks"] += 1
        self.judge.fallback = bool("fallback" in self.services and self.services["fallback"].running)
        lost, replaced = self.replicas.see(self.services, now)
        for one in lost:
            if one.replica.id not in self._restarted:
                self._ends[one.replica.id] = await asyncio.to_thread(serve_view.end_of, one.replica)
        for one in replaced:
            self._tell_replaced(one)
        if self.judge.line == FALLBACK:
            await self._steer()

    async def _check(self) -> None:
        if not self.services:
            return
        checked = await self.canary.ask(self.services)
        self.counts["canaries"] += 1
        self.told.canary(checked)
        suspect = None if checked.ok or checked.service else await self.canary.ready()
        service = self.services.get(checked.service or suspect or INGRESS)
        settled = service is not None and service.settled and not deploying(self.services)
        for decision in self.judge.take(checked, suspect, settled, time.monotonic()):
            await self._do(decision, checked)

    async def _do(self, decision, checked: CanaryResult) -> None:
        now = time.time_ns()
        if isinstance(decision, CheckFailed):
            self.told.action(
                "CHECK_FAILED",
                f"canary_{checked.outcome}",
                checked.service or INGRESS,
                checked.began_ns,
                checked.ended_ns,
                failed=True,
                WATCHDOG_FAILURES=decision.failures,
                CANARY_TRACE_ID=checked.trace_id,
            )
        elif isinstance(decision, Switch):
            self.told.action(
                "TRAFFIC_SWITCHED",
                decision.cause,
                INGRESS,
                decision.since_ns,
                now,
                WATCHDOG_FAILURES=decision.failures,
                WATCHDOG_LINE=decision.line,
            )
            await self._steer()
        elif isinstance(decision, Withheld):
            self.told.action(
                "RESTART_WITHHELD",
                decision.cause,
                decision.service,
                decision.since_ns,
                now,
                failed=True,
                WATCHDOG_FAILURES=decision.failures,
            )
        elif isinstance(decision, Restart):
            await self._restart(decision)

    async def _restart(self, decision: Restart) -> None:
        service = self.services.get(decision.service)
        replica = await asyncio.to_thread(serve_view.at_fault, service) if service is not None else None
        if replica is None:
            log.warning("watchdog: %s has no replica that could be restarted", decision.service)
            return
        self._restarted[replica.id] = decision  # told as soon as its successor runs
        log.warning("watchdog: restarting %s of %s, %s", replica.id, decision.service, decision.cause)
        try:
            await asyncio.to_thread(serve_view.kill, replica)
        except Exception as error:
            del self._restarted[replica.id]  # or its end, some day, would be told as our doing
            if not isinstance(error, ValueError):  # gone by itself meanwhile
                raise

    def _tell_replaced(self, one: Replaced) -> None:
        replica, ended_ns = one.lost.replica.id, time.time_ns()
        began_ns = ended_ns - int((one.at_s - one.lost.seen_s) * 1e9)
        tags = {"REPLICA_ID": replica}
        if ours := self._restarted.pop(replica, None):
            self.told.action(
                "REPLICA_RESTARTED",
                ours.cause,
                ours.service,
                ours.since_ns,
                ended_ns,
                WATCHDOG_FAILURES=ours.failures,
                **tags,
            )
        else:
            self.told.action(
                "REPLICA_REPLACED", self._ends.pop(replica, "gone"), one.lost.service, began_ns, ended_ns, **tags
            )

    async def _steer(self) -> None:
        """Tell every ingress which line to use. For as long as a canary may take and a few looks more."""
        self.told.line(self.judge.line == FALLBACK)
        for_s = self.settings.canary_within_s + STALLED_AFTER * self.settings.check_every_s
        try:
            async with asyncio.timeout(10):
                handle = serve.get_deployment_handle(INGRESS, self.settings.app_name)
                await handle.broadcast("steer", self.judge.line, for_s).results_async()
        except Exception as error:
            log.warning("not every ingress could be told which engine to use: %s", safe_traceback(error))

    async def counters(self) -> dict:
        """For tests and operators, through a handle."""
        return {
            **self.counts,
            "line": self.judge.line,
            "failures": self.judge.failures,
            **{f"export_{name}": count for name, count in self.told.exporter.counters().items()},
        }

    def __del__(self) -> None:
        if told := getattr(self, "told", None):
            told.close()


def build(args: WatchdogSettings) -> Application:
    """Serve's application builder."""
    return serve.deployment(
        Watchdog,
        name=Watchdog.service,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.05},
        health_check_period_s=3,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
    ).bind(args)
