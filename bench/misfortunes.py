"""What is done to a running graph so that an alert of the runbook fires, and what mends it: `bench/drills.py`.

Each has three parts, as the runbook has them: what happens, what is looked at (its steps, each of which must show what
it says), and what is done about it.
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

from bench.alerts import Alert, Unlike
from bench.drill_place import Place, expect, listener
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


class Misfortune(ABC):
    alert: str
    happens: str  #: in words
    mended: str
    alone = True  #: nothing may fire before it
    ends = True  #: `mend` makes the alert go

    @abstractmethod
    def begin(self, place: Place) -> None: ...

    def goes_on(self, place: Place) -> None:
        """Called twice a second until the alert fires."""

    @abstractmethod
    def look(self, place: Place, alert: Alert) -> str:
        """What the runbook's steps show. Unlike where they show something else."""

    @abstractmethod
    def mend(self, place: Place) -> None: ...


class NoBatches(Misfortune):
    alert = "RequestsSlow"
    happens = "tts-service's `max_batch_size` set to 1, 24 callers at once"
    mended = "the old setting, live"

    def begin(self, place: Place) -> None:
        self._before = place.config("tts-service").get("user_config")
        place.config("tts-service")["user_config"] = {"max_batch_size": 1, "batch_wait_ms": 0}
        place.deploy()
        place.traffic.clients, place.traffic.pause_s = CROWD

    def look(self, place: Place, alert: Alert) -> str:
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

    def mend(self, place: Place) -> None:
        place.traffic.clients, place.traffic.pause_s = CALM
        place.config("tts-service")["user_config"] = self._before
        place.deploy()


class Defect(Misfortune):
    alert = "RequestsFail"
    happens = "a text that the model raises at, in a third of the requests"
    mended = "no such text any more"

    def begin(self, place: Place) -> None:
        place.traffic.mix = [*GOOD, {"text": "fault:generate", "dialect": "en-US"}]

    def look(self, place: Place, alert: Alert) -> str:
        expect(alert.notes["stage"] == "GENERATE_MEL", f"the alert names {alert.notes['stage']}")
        found = alert.traces()
        kinds = tags(found, vocabulary.ERROR_TYPE)
        expect(set(kinds) == {"internal"}, f"error types: {dict(kinds)}")
        lines = place.log_lines("tts-service", found[0][0]["traceId"])
        expect(lines > 0, "tts-service's log has nothing of the first trace")
        return f"{len(found)} traces with `error.type` internal; the stage's log names the first one's id"

    def mend(self, place: Place) -> None:
        place.traffic.mix = list(GOOD)


class Deaths(Misfortune):
    alert = "StageLost"
    happens = "tts-service's replica killed (SIGKILL) as soon as it is back"
    mended = "left alone"

    def begin(self, place: Place) -> None:
        self._killed: list[int] = []
        place.traffic.clients, place.traffic.pause_s = CROWD

    def goes_on(self, place: Place) -> None:
        process = place.process("tts-service")
        if process not in self._killed and len(self._killed) < 5:
            os.kill(process, signal.SIGKILL)
            self._killed.append(process)

    def look(self, place: Place, alert: Alert) -> str:
        expect(alert.notes["stage"] == "GENERATE_MEL", f"the alert names {alert.notes['stage']}")
        found = alert.traces()
        died = [span for span in place.told("REPLICA_REPLACED") if span["tags"]["watchdog.cause"] == "died"]
        expect(bool(died), "the watchdog tells of no replica that died")
        kinds = tags(found, vocabulary.ERROR_TYPE)
        return (
            f"{len(self._killed)} deaths; {len(found)} traces, `error.type` "
            f"{', '.join(sorted(kinds)) or 'none'}; the watchdog's `REPLICA_REPLACED` with cause died"
        )

    def mend(self, place: Place) -> None:
        place.traffic.clients, place.traffic.pause_s = CALM
        place.process("tts-service")


class NoRoom(Misfortune):
    alert = "StageDown"
    happens = "a deploy in which audio-service asks for 100 CPUs"
    mended = "the config from before it, deployed"

    def begin(self, place: Place) -> None:
        options = place.config("audio-service")["ray_actor_options"]
        self._before = options["num_cpus"]
        options["num_cpus"] = 100
        place.deploy()

    def look(self, place: Place, alert: Alert) -> str:
        expect(alert.notes["stage"] == "audio-service", f"the alert names {alert.notes['stage']}")
        waited, found = self._first_to_fail(place)
        status = self._what_serve_says(place)
        return (
            f"the link finds the first traces ({len(found)}) {waited:.0f} s later: requests waited for their "
            f"deadline of 20 s; Serve: {status['status']}, and names the 100 CPUs it waits for"
        )

    def _what_serve_says(self, place: Place) -> dict:
        """It waits for half a minute before it says why a replica does not start."""
        began = time.monotonic()
        while True:
            status = place.status("audio-service")
            if status["status"] == "UPDATING" and re.search(r"\b100(\.0)?\b", status["message"]):
                return status
            expect(time.monotonic() - began < 60, f"Serve says {status['status']}: {status['message']}")
            time.sleep(1)

    def _first_to_fail(self, place: Place) -> tuple[float, list[list[dict]]]:
        """Seconds until the alert's link, which Prometheus renews, finds something; and what."""
        began = time.monotonic()
        while True:
            try:
                if again := place.alerts.firing().get(self.alert):
                    return time.monotonic() - began, again.traces()
            except Unlike:
                pass
            expect(time.monotonic() - began < 60, "the link finds nothing within a minute")
            time.sleep(1)

    def mend(self, place: Place) -> None:
        place.config("audio-service")["ray_actor_options"]["num_cpus"] = self._before
        place.deploy()
        place.process("audio-service")


class RefusedTexts(Misfortune):
    alert = "DialectFails"
    happens = "every text in zh-CN is refused (400), en-US is as ever"
    mended = "texts that can be spoken"

    def begin(self, place: Place) -> None:
        place.traffic.mix = [GOOD[0], {"text": "refuse:generate", "dialect": "zh-CN"}]

    def look(self, place: Place, alert: Alert) -> str:
        found = alert.traces()
        kinds, dialects = tags(found, vocabulary.ERROR_TYPE), tags(found, vocabulary.REQUEST_DIALECT)
        expect(set(kinds) == {"input_validation"}, f"error types: {dict(kinds)}")
        expect(len(dialects) == 1, f"dialects: {dict(dialects)}")
        return f"{len(found)} traces, all `request.dialect` {', '.join(dialects)} and `error.type` input_validation"

    def mend(self, place: Place) -> None:
        place.traffic.mix = list(GOOD)


class ZipkinStops(Misfortune):
    alert = "TracesStuck"
    happens = "Zipkin stopped (SIGSTOP), two callers"
    mended = "Zipkin goes on"

    def begin(self, place: Place) -> None:
        place.traffic.clients, place.traffic.pause_s = 2, 1.0
        self._zipkin = listener(int(place.zipkin_url.rpartition(":")[2]))
        self._zipkin.suspend()

    def look(self, place: Place, alert: Alert) -> str:
        try:
            httpx.get(f"{place.zipkin_url}/health", timeout=5, trust_env=False)
        except httpx.TimeoutException:
            waiting = place.alerts.ask("sum(ray_cosygraph_traces_waiting)")
            return f"Zipkin does not answer `/health`; {waiting[()]:.0f} traces wait"
        raise Unlike("Zipkin answers")

    def mend(self, place: Place) -> None:
        self._zipkin.resume()
        place.traffic.clients, place.traffic.pause_s = CALM


class SpoolFull(ZipkinStops):
    alert = "TracesLost"
    happens = "the same with 24 callers, and a spool of 2 MB"
    mended = "Zipkin goes on"

    def begin(self, place: Place) -> None:
        super().begin(place)
        place.traffic.clients, place.traffic.pause_s = CROWD

    def look(self, place: Place, alert: Alert) -> str:
        lost = place.alerts.ask("sum by (cause) (ray_cosygraph_traces_lost_total) > 0")
        expect(set(lost) == {("spool_full",)}, f"causes: {lost}")
        expect(place.traffic.statuses[200] > 0, "no request was answered")
        return f"`cause` spool_full, {lost['spool_full',]:.0f} traces; requests went on"


class EngineIll(Misfortune):
    alert = "CanaryFails"
    happens = "the engine's device raises at everything"
    mended = "by the next one"
    ends = False

    def begin(self, place: Place) -> None:
        place.fault.write_text("raise")

    def look(self, place: Place, alert: Alert) -> str:
        expect(alert.notes["stage"] == "tts-service", f"the alert names {alert.notes['stage']}")
        found = alert.traces()
        at_fault = tags(found, "watchdog.service")
        expect(set(at_fault) == {"tts-service"}, f"at fault: {dict(at_fault)}")
        request = next(iter(tags(found, "canary.trace_id")))
        answer = httpx.get(f"{place.zipkin_url}/api/v2/trace/{request}", trust_env=False, timeout=30)
        expect(answer.status_code == 200, f"the canary's request {request} is not in Zipkin")
        return (
            f"{len(found)} failed checks, `watchdog.service` tts-service, `error.type` "
            f"{', '.join(tags(found, vocabulary.ERROR_TYPE))}; `canary.trace_id` leads to the request"
        )

    def mend(self, place: Place) -> None:
        """It stays ill."""


class OnTheOther(Misfortune):
    alert = "OnFallback"
    happens = "the same, a second engine standing by"
    alone = False
    mended = "the device is well again; traffic went back by itself"

    def begin(self, place: Place) -> None:
        expect(place.fault.exists(), "the engine is not ill")

    def look(self, place: Place, alert: Alert) -> str:
        alert.traces()
        place.traffic.statuses.clear()
        time.sleep(5)
        expect(set(place.traffic.statuses) == {200}, f"answers meanwhile: {dict(place.traffic.statuses)}")
        answered = place.alerts.ask("sum(ray_cosygraph_fallback_requests_total)")
        return (
            f"`TRAFFIC_SWITCHED` is found; {answered.get((), 0):.0f} requests answered by the fallback, "
            "and no other answer than 200"
        )

    def mend(self, place: Place) -> None:
        place.fault.unlink()


class AgentSilent(Misfortune):
    alert = "GraphGone"
    happens = "Ray's agent, which Prometheus asks, stopped (SIGSTOP)"
    mended = "the agent goes on"

    def begin(self, place: Place) -> None:
        head = psutil.Process(place.graph.head.process.pid)
        self._agents = [
            one for one in (head, *head.children(recursive=True)) if "DashboardAgent" in " ".join(one.cmdline())
        ]
        expect(bool(self._agents), "no agent of Ray's runs")
        for agent in self._agents:
            agent.suspend()

    def look(self, place: Place, alert: Alert) -> str:
        down = place.alerts.ask('up{job="ray"}')
        expect(set(down.values()) <= {0.0}, f"targets: {down}")
        place.traffic.statuses.clear()
        time.sleep(5)
        expect(place.traffic.statuses[200] > 0, "no request is answered")
        return f"{len(down)} target(s), none of them up; requests are answered: Prometheus is blind, the graph well"

    def mend(self, place: Place) -> None:
        for agent in self._agents:
            agent.resume()


class RayEnds(AgentSilent):
    happens = "Ray stopped with all that runs in it"
    mended = "by `make up` alone"
    ends = False

    def begin(self, place: Place) -> None:
        place.graph.head.stop()

    def look(self, place: Place, alert: Alert) -> str:
        expect(not place.graph.dashboard.applications(), "Serve answers")
        return "nothing of Ray's is left"

    def mend(self, place: Place) -> None:
        """There is nothing to be mended here."""


ALL: tuple[type[Misfortune], ...] = (
    NoBatches,
    Defect,
    RefusedTexts,
    Deaths,
    NoRoom,
    EngineIll,
    OnTheOther,
    ZipkinStops,
    SpoolFull,
    AgentSilent,
    RayEnds,
)
NOT_TRIED = {"GpuUnderused": "needs a GPU"}
