"""The faults that make the runbook's alerts fire, one class each: tests/drills/test_alerts.py injects them.

A fault has three parts, as the runbook has them: it is injected, the steps for it are inspected (each must show what
the runbook says), and it is repaired.
"""

from __future__ import annotations

import os
import re
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter

import httpx
import psutil

from tests.drills.alerts import Alert, CheckFailed
from tests.drills.environment import Environment, expect, listener
from tracing import vocabulary

GOOD = [{"text": "Hello there", "dialect": "en-US"}, {"text": "你好", "dialect": "zh-CN"}]
CALM, CROWD = (12, 0.8), (24, 0.0)  #: clients and the pause of each, s


def of_stages(trace: list[dict]) -> list[dict]:
    return [
        span
        for span in trace
        if span.get("kind") == "SERVER" and span["localEndpoint"]["serviceName"] != vocabulary.INGRESS
    ]


def tags(traces: list[list[dict]], name: str) -> Counter[str]:
    return Counter(span["tags"][name] for trace in traces for span in trace if name in span.get("tags", {}))


class Fault(ABC):
    alert: str
    description: str  #: for the runbook's table
    remedy: str
    needs_quiet = True  #: no alert may fire before it
    clears = True  #: the alert ends after `repair`

    @abstractmethod
    def inject(self, environment: Environment) -> None: ...

    def repeat(self, environment: Environment) -> None:  # noqa: B027  most faults are injected once
        """Keep the fault up: called twice a second until the alert fires."""

    @abstractmethod
    def inspect(self, environment: Environment, alert: Alert) -> str:
        """Follow the runbook's steps.

        Returns:
            The observation, for the runbook's table.

        Raises:
            CheckFailed: A step shows something else than the runbook says.
        """

    @abstractmethod
    def repair(self, environment: Environment) -> None: ...


class BatchingDisabled(Fault):
    alert = "RequestsSlow"
    description = "tts-service's `max_batch_size` set to 1, 24 callers at once"
    remedy = "the old setting, live"

    def inject(self, environment: Environment) -> None:
        self._before = environment.config("tts-service").get("user_config")
        environment.config("tts-service")["user_config"] = {"max_batch_size": 1, "batch_wait_ms": 0}
        environment.deploy()
        environment.traffic.clients, environment.traffic.pause_s = CROWD

    def inspect(self, environment: Environment, alert: Alert) -> str:
        expect(alert.notes["stage"] == "GENERATE_MEL", f"the alert names {alert.notes['stage']}")
        found = alert.traces()
        slowest = max(found, key=lambda trace: max(span["duration"] for span in trace))
        widest = max(of_stages(slowest), key=lambda span: span["duration"])
        waits = {name: float(widest["tags"][name]) for name in (vocabulary.BATCH_WAIT_MS, vocabulary.COMPUTE_MS)}
        expect(
            widest["name"] == "generate_mel" and waits[vocabulary.BATCH_WAIT_MS] > 5 * waits[vocabulary.COMPUTE_MS],
            f"the widest is {widest['name']} with {waits}",
        )
        sizes = tags([[widest]], vocabulary.BATCH_SIZE)
        return (
            f"{len(found)} traces; the widest span of the slowest is GENERATE_MEL, "
            f"{widest['duration'] / 1e6:.1f} s, `batch.wait_ms` {waits[vocabulary.BATCH_WAIT_MS]:.0f}, "
            f"`compute_ms` {waits[vocabulary.COMPUTE_MS]:.0f}, `batch.size` {', '.join(sizes)}"
        )

    def repair(self, environment: Environment) -> None:
        environment.traffic.clients, environment.traffic.pause_s = CALM
        environment.config("tts-service")["user_config"] = self._before
        environment.deploy()


class ModelRaises(Fault):
    alert = "RequestsFail"
    description = "a text that the model raises at, in a third of the requests"
    remedy = "no such text any more"

    def inject(self, environment: Environment) -> None:
        environment.traffic.mix = [*GOOD, {"text": "fault:generate", "dialect": "en-US"}]

    def inspect(self, environment: Environment, alert: Alert) -> str:
        expect(alert.notes["stage"] == "GENERATE_MEL", f"the alert names {alert.notes['stage']}")
        found = alert.traces()
        kinds = tags(found, vocabulary.ERROR_TYPE)
        expect(set(kinds) == {"internal"}, f"error types: {dict(kinds)}")
        lines = environment.log_lines("tts-service", found[0][0]["traceId"])
        expect(lines > 0, "tts-service's log has nothing of the first trace")
        return f"{len(found)} traces with `error.type` internal; the stage's log names the first one's id"

    def repair(self, environment: Environment) -> None:
        environment.traffic.mix = list(GOOD)


class ReplicaKilled(Fault):
    alert = "StageLost"
    description = "tts-service's replica killed (SIGKILL) as soon as it is back"
    remedy = "left alone"

    def inject(self, environment: Environment) -> None:
        self._killed: list[int] = []
        environment.traffic.clients, environment.traffic.pause_s = CROWD

    def repeat(self, environment: Environment) -> None:
        process = environment.process("tts-service")
        if process not in self._killed and len(self._killed) < 5:
            os.kill(process, signal.SIGKILL)
            self._killed.append(process)

    def inspect(self, environment: Environment, alert: Alert) -> str:
        expect(alert.notes["stage"] == "GENERATE_MEL", f"the alert names {alert.notes['stage']}")
        found = alert.traces()
        died = [
            span for span in environment.watchdog_spans("REPLICA_REPLACED") if span["tags"]["watchdog.cause"] == "died"
        ]
        expect(bool(died), "the watchdog tells of no replica that died")
        kinds = tags(found, vocabulary.ERROR_TYPE)
        return (
            f"{len(self._killed)} deaths; {len(found)} traces, `error.type` "
            f"{', '.join(sorted(kinds)) or 'none'}; the watchdog's `REPLICA_REPLACED` with cause died"
        )

    def repair(self, environment: Environment) -> None:
        environment.traffic.clients, environment.traffic.pause_s = CALM
        environment.process("tts-service")


class NoCapacity(Fault):
    alert = "StageDown"
    description = "a deploy in which audio-service asks for 100 CPUs"
    remedy = "the config from before it, deployed"

    def inject(self, environment: Environment) -> None:
        options = environment.config("audio-service")["ray_actor_options"]
        self._before = options["num_cpus"]
        options["num_cpus"] = 100
        environment.deploy()

    def inspect(self, environment: Environment, alert: Alert) -> str:
        expect(alert.notes["stage"] == "audio-service", f"the alert names {alert.notes['stage']}")
        waited, found = self._first_traces(environment)
        status = self._status_with_reason(environment)
        return (
            f"the link finds the first traces ({len(found)}) {waited:.0f} s later: requests waited for their "
            f"deadline of 20 s; Serve: {status['status']}, and names the 100 CPUs it waits for"
        )

    def _status_with_reason(self, environment: Environment) -> dict:
        """Poll Serve: it waits for half a minute before it gives the reason why a replica does not start."""
        began = time.monotonic()
        while True:
            status = environment.status("audio-service")
            if status["status"] == "UPDATING" and re.search(r"\b100(\.0)?\b", status["message"]):
                return status
            expect(time.monotonic() - began < 60, f"Serve says {status['status']}: {status['message']}")
            time.sleep(1)

    def _first_traces(self, environment: Environment) -> tuple[float, list[list[dict]]]:
        """Poll the alert's link, which Prometheus renews; return the seconds until it finds traces, and the traces."""
        began = time.monotonic()
        while True:
            try:
                if again := environment.alerts.firing().get(self.alert):
                    return time.monotonic() - began, again.traces()
            except CheckFailed:
                pass
            expect(time.monotonic() - began < 60, "the link finds nothing within a minute")
            time.sleep(1)

    def repair(self, environment: Environment) -> None:
        environment.config("audio-service")["ray_actor_options"]["num_cpus"] = self._before
        environment.deploy()
        environment.process("audio-service")


class DialectRejected(Fault):
    alert = "DialectFails"
    description = "every text in zh-CN is refused (400), en-US is as ever"
    remedy = "texts that can be spoken"

    def inject(self, environment: Environment) -> None:
        environment.traffic.mix = [GOOD[0], {"text": "refuse:generate", "dialect": "zh-CN"}]

    def inspect(self, environment: Environment, alert: Alert) -> str:
        found = alert.traces()
        kinds, dialects = tags(found, vocabulary.ERROR_TYPE), tags(found, vocabulary.REQUEST_DIALECT)
        expect(set(kinds) == {"input_validation"}, f"error types: {dict(kinds)}")
        expect(len(dialects) == 1, f"dialects: {dict(dialects)}")
        return f"{len(found)} traces, all `request.dialect` {', '.join(dialects)} and `error.type` input_validation"

    def repair(self, environment: Environment) -> None:
        environment.traffic.mix = list(GOOD)


class ZipkinSuspended(Fault):
    alert = "TracesStuck"
    description = "Zipkin stopped (SIGSTOP), two callers"
    remedy = "Zipkin goes on"

    def inject(self, environment: Environment) -> None:
        environment.traffic.clients, environment.traffic.pause_s = 2, 1.0
        self._zipkin = listener(int(environment.zipkin_url.rpartition(":")[2]))
        self._zipkin.suspend()

    def inspect(self, environment: Environment, alert: Alert) -> str:
        try:
            httpx.get(f"{environment.zipkin_url}/health", timeout=5, trust_env=False)
        except httpx.TimeoutException:
            waiting = environment.alerts.ask("sum(ray_cosygraph_traces_waiting)")
            return f"Zipkin does not answer `/health`; {waiting[()]:.0f} traces wait"
        raise CheckFailed("Zipkin answers")

    def repair(self, environment: Environment) -> None:
        self._zipkin.resume()
        environment.traffic.clients, environment.traffic.pause_s = CALM


class SpoolFull(ZipkinSuspended):
    alert = "TracesLost"
    description = "the same with 24 callers, and a spool of 2 MB"
    remedy = "Zipkin goes on"

    def inject(self, environment: Environment) -> None:
        super().inject(environment)
        environment.traffic.clients, environment.traffic.pause_s = CROWD

    def inspect(self, environment: Environment, alert: Alert) -> str:
        lost = environment.alerts.ask("sum by (cause) (ray_cosygraph_traces_lost_total) > 0")
        expect(set(lost) == {("spool_full",)}, f"causes: {lost}")
        expect(environment.traffic.statuses[200] > 0, "no request was answered")
        return f"`cause` spool_full, {lost['spool_full',]:.0f} traces; requests went on"


class DeviceFails(Fault):
    alert = "CanaryFails"
    description = "the engine's device raises at everything"
    remedy = "by the next one"
    clears = False

    def inject(self, environment: Environment) -> None:
        environment.fault.write_text("raise")

    def inspect(self, environment: Environment, alert: Alert) -> str:
        expect(alert.notes["stage"] == "tts-service", f"the alert names {alert.notes['stage']}")
        found = alert.traces()
        at_fault = tags(found, "watchdog.service")
        expect(set(at_fault) == {"tts-service"}, f"at fault: {dict(at_fault)}")
        request = next(iter(tags(found, "canary.trace_id")))
        answer = httpx.get(f"{environment.zipkin_url}/api/v2/trace/{request}", trust_env=False, timeout=30)
        expect(answer.status_code == 200, f"the canary's request {request} is not in Zipkin")
        return (
            f"{len(found)} failed checks, `watchdog.service` tts-service, `error.type` "
            f"{', '.join(tags(found, vocabulary.ERROR_TYPE))}; `canary.trace_id` leads to the request"
        )

    def repair(self, environment: Environment) -> None:
        """Leave the device as it is: FallbackServes needs the fault."""


class FallbackServes(Fault):
    alert = "OnFallback"
    description = "the same, a second engine standing by"
    needs_quiet = False
    remedy = "the device is well again; traffic went back by itself"

    def inject(self, environment: Environment) -> None:
        expect(environment.fault.exists(), "the engine is not ill")

    def inspect(self, environment: Environment, alert: Alert) -> str:
        alert.traces()
        environment.traffic.statuses.clear()
        time.sleep(5)
        expect(set(environment.traffic.statuses) == {200}, f"answers meanwhile: {dict(environment.traffic.statuses)}")
        answered = environment.alerts.ask("sum(ray_cosygraph_fallback_requests_total)")
        return (
            f"`TRAFFIC_SWITCHED` is found; {answered.get((), 0):.0f} requests answered by the fallback, "
            "and no other answer than 200"
        )

    def repair(self, environment: Environment) -> None:
        environment.fault.unlink()


class MetricsAgentSuspended(Fault):
    alert = "GraphGone"
    description = "Ray's agent, which Prometheus asks, stopped (SIGSTOP)"
    remedy = "the agent goes on"

    def inject(self, environment: Environment) -> None:
        head = psutil.Process(environment.graph.head.process.pid)
        self._agents = [
            one for one in (head, *head.children(recursive=True)) if "DashboardAgent" in " ".join(one.cmdline())
        ]
        expect(bool(self._agents), "no agent of Ray's runs")
        for agent in self._agents:
            agent.suspend()

    def inspect(self, environment: Environment, alert: Alert) -> str:
        down = environment.alerts.ask('up{job="ray"}')
        expect(set(down.values()) <= {0.0}, f"targets: {down}")
        environment.traffic.statuses.clear()
        time.sleep(5)
        expect(environment.traffic.statuses[200] > 0, "no request is answered")
        return f"{len(down)} target(s), none of them up; requests are answered: Prometheus is blind, the graph well"

    def repair(self, environment: Environment) -> None:
        for agent in self._agents:
            agent.resume()


class RayStopped(MetricsAgentSuspended):
    description = "Ray stopped with all that runs in it"
    remedy = "by `make up` alone"
    clears = False

    def inject(self, environment: Environment) -> None:
        environment.graph.head.stop(grace_s=1.0)

    def inspect(self, environment: Environment, alert: Alert) -> str:
        expect(not environment.graph.dashboard.applications(), "Serve answers")
        return "nothing of Ray's is left"

    def repair(self, environment: Environment) -> None:
        """Leave Ray stopped: RayStopped is the last fault."""


ALL: tuple[type[Fault], ...] = (
    BatchingDisabled,
    ModelRaises,
    DialectRejected,
    ReplicaKilled,
    NoCapacity,
    DeviceFails,
    FallbackServes,
    ZipkinSuspended,
    SpoolFull,
    MetricsAgentSuspended,
    RayStopped,
)
NOT_TRIED = {
    "GpuUnderused": "needs a GPU",
    "StreamsRunDry": "nobody in a drill streams: tests/served/test_streaming_served.py makes streams run dry",
    "SessionsRefused": "no client of the drills opens sessions: tests/unit/test_live_session.py fills a replica",
    "NodeLost": "needs several nodes: test_nodes_watched.py provokes it there",
}
