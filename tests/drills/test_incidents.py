"""Three incidents, made on purpose, that the doctor must find, and one that its own change must end.

A graph of its own (simulated engine, its GPU's batch curve stated below), a real Zipkin, a real Prometheus, a tenth of
the traces kept. Four callers with keys send in an open loop. One after the other:

- Nothing is wrong: the doctor must ask for nothing.
- The telephone company's recordings have 8 kHz, so 15 % of all requests are refused. Zipkin must have every one of
  them. The doctor must say it in one line: 8 kHz, the share, the caller.
- The radio station and the school leave their dialect out. The station's requests are refused. The school's key has a
  dialect, which stands in, and the doctor must show it.
- tts-service's batches are set to one. The doctor must name the setting. Its own `--apply batch` changes it, in the
  same processes; the same requests come once more, and their P95 must be lower by 60 % at least.

The doctor is told where Zipkin and Prometheus are and how far back to look: to the start of the phase; and, before it
changes anything, to the start of the first one.

The load of the last incident is 93 % of what batches of one can do in simulated compute alone (6.3 requests a second,
98 % of them good; 150 ms each are 6.67). A queue that close to its limit grows for minutes, so its P95 belongs to the
stated length of the phase.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.measuring.records import about, save
from tests.drills import doctor_report
from tests.drills.callers import KEYS, Answers, Kind, Mix
from tests.drills.doctor_report import Report
from tests.drills.load_phase import LoadPhase, improvement
from tests.drills.watched_graph import LOOKS_ROUND_S, WatchedGraph, watched_graph
from tests.drills.zipkin_queries import has_rate

RESULTS = Path(__file__).parent / "results" / "incidents.json"
SECONDS, LOAD_SECONDS = 45.0, 75.0  #: of requests: in each of the first three phases, and in each of the last two
SIMULATED = {"prepare_ms": 2, "encode_ms": 6, "generate_ms": 150, "vocode_ms": 6, "batch_slope": 0.1, "seconds": 5}
NO_BATCHES = {"max_batch_size": 1, "batch_wait_ms": 0}  #: in place of 8 and 200, which cluster/serve.cpu.yaml has
PER_S, NEAR_THE_LIMIT_PER_S = 8.0, 6.3
RATIO = 0.1  #: of unremarkable traces that are kept
SEED = 7  #: of the last load
WARM_S = 5.0
COUNTED_S = 17.0  #: Ray's agent is told every 10 s, and scraped every 5 s
IMPROVES_BY = 0.6
EVERY_DAY: Mix = {
    Kind("shop"): 0.35,
    Kind("shop", "empty"): 0.02,
    Kind("radio"): 0.23,
    Kind("school"): 0.2,
    Kind("phone"): 0.2,
}
NARROW: Mix = {
    Kind("shop"): 0.35,
    Kind("shop", "empty"): 0.02,
    Kind("radio"): 0.23,
    Kind("school"): 0.25,
    Kind("phone", "narrow"): 0.15,
}
FORGOTTEN: Mix = {
    Kind("shop"): 0.38,
    Kind("shop", "empty"): 0.02,
    Kind("radio", "forgotten"): 0.15,
    Kind("school", "forgotten"): 0.25,
    Kind("phone"): 0.2,
}


class Incidents:
    """The phases of the drill, in the order in which they are called."""

    def __init__(self, graph: WatchedGraph) -> None:
        self.graph, self.zipkin, self.doctor = graph, graph.zipkin, graph.doctor
        self.hashes: dict[str, str] = {}  #: by caller
        self.began = time.monotonic()
        self.sent: list[Answers] = []

    def phase(self, mix: Mix, per_s: float, seconds: float, seed: int) -> LoadPhase:
        """Send requests, wait until all are counted, ask the doctor."""
        began = time.monotonic()
        answers = self.graph.callers.send(mix, per_s, seconds, seed)
        self.sent.append(answers)
        time.sleep(COUNTED_S)
        report = self.doctor.ask(time.monotonic() - began)
        wrong = [f"{what}, {count} times" for what, count in answers.unexpected.items()]
        traces = self.zipkin.refused(answers.refused, time.monotonic() - began)
        if len(traces) != len(answers.refused):
            wrong.append(f"{len(answers.refused)} requests were refused, and Zipkin has {len(traces)} of them")
        return LoadPhase(answers, began, report, wrong)

    def meet(self, answers: Answers) -> None:
        """Look up the user hash of each caller in Zipkin."""
        self.hashes = {caller: self.zipkin.user_hash(answers.of(caller)) for caller in KEYS}

    def every_day(self, seconds: float) -> LoadPhase:
        self.graph.callers.send(EVERY_DAY, PER_S, WARM_S, seed=0)  # the first requests of a process are slow
        time.sleep(COUNTED_S)
        self.began = time.monotonic()
        phase = self.phase(EVERY_DAY, PER_S, seconds, seed=1)
        self.meet(phase.answers)
        phase.wrong += doctor_report.nothing_to_do(phase.report)
        return phase

    def narrow(self, seconds: float) -> LoadPhase:
        phase = self.phase(NARROW, PER_S, seconds, seed=2)
        narrow = phase.answers.of("phone", "narrow")
        known = sum(has_rate(trace, 8000) for trace in self.zipkin.refused(narrow, phase.since_s))
        if known != len(narrow):
            phase.wrong.append(f"of {len(narrow)} requests with 8 kHz Zipkin knows the rate of {known}")
        phase.wrong += self.names_narrow_recordings(phase.report, [phase.answers])
        return phase

    def names_narrow_recordings(self, report: Report, sent: list[Answers]) -> list[str]:
        narrow, refused, all_of_them = (
            sum(counts)
            for counts in zip(
                *((len(one.of("phone", "narrow")), len(one.refused), len(one.samples)) for one in sent), strict=True
            )
        )
        others = [user for caller, user in self.hashes.items() if caller != "phone"]
        return doctor_report.names_narrow_recordings(
            report, self.hashes["phone"], others, (narrow / all_of_them, narrow / refused)
        )

    def forgotten(self, seconds: float) -> LoadPhase:
        phase = self.phase(FORGOTTEN, PER_S, seconds, seed=3)
        phase.wrong += self.names_forgotten_dialects(phase.report, [phase.answers])
        return phase

    def names_forgotten_dialects(self, report: Report, sent: list[Answers]) -> list[str]:
        saved = sum(len(one.of("school", "forgotten")) for one in sent)
        return doctor_report.names_forgetful_caller(report, self.hashes["radio"]) + doctor_report.shows_fallback(
            report, saved
        )

    def no_batches(self, seconds: float) -> LoadPhase:
        self.graph.set_batches(NO_BATCHES)
        phase = self.phase(EVERY_DAY, NEAR_THE_LIMIT_PER_S, seconds, SEED)
        change = doctor_report.change_of_batches(phase.report)
        if change is None or change["deployment"] != "tts-service":
            phase.wrong.append(f"the doctor would change {change}, and not the batches of tts-service")
        phase.wrong += self.all_at_once()
        return phase

    def as_the_doctor_says(self, before: LoadPhase) -> LoadPhase:
        """Send the same requests once more, after the doctor's change."""
        processes = self.graph.processes()
        self.doctor.apply_batch(before.since_s)
        time.sleep(LOOKS_ROUND_S)
        after = self.phase(EVERY_DAY, NEAR_THE_LIMIT_PER_S, before.answers.seconds, SEED)
        if self.graph.processes() != processes:
            after.wrong.append("replicas were replaced: the change was not live")
        after.wrong += doctor_report.nothing_to_do(after.report)
        if (less := improvement(before, after)) < IMPROVES_BY:
            after.wrong.append(f"P95 is lower by {less:.0%}, and not by {IMPROVES_BY:.0%}")
        return after

    def all_at_once(self) -> list[str]:
        """Ask about the whole time since the first phase."""
        report = self.doctor.ask(time.monotonic() - self.began)
        print("== all at once", *report.lines, sep="\n  ", flush=True)
        return [
            f"all at once: {text}"
            for text in (
                *self.names_narrow_recordings(report, self.sent),
                *self.names_forgotten_dialects(report, self.sent),
            )
        ]


def run(incidents: Incidents) -> dict[str, LoadPhase]:
    """Go through all phases; print each as it ends."""
    phases: dict[str, LoadPhase] = {}

    def add(name: str, phase: LoadPhase) -> None:
        phases[name] = phase
        figures = " ".join(f"{figure} {value};" for figure, value in phase.figures().items() if figure != "doctor")
        print(
            f"== {name}: {figures}",
            *phase.report.lines,
            *(f"WRONG: {text}" for text in phase.wrong),
            sep="\n  ",
            flush=True,
        )

    add("every_day", incidents.every_day(SECONDS))
    add("narrow", incidents.narrow(SECONDS))
    add("forgotten", incidents.forgotten(SECONDS))
    add("no_batches", incidents.no_batches(LOAD_SECONDS))
    add("as_the_doctor_says", incidents.as_the_doctor_says(phases["no_batches"]))
    return phases


@pytest.mark.drill
def test_the_doctor_finds_each_incident_and_ends_the_last():
    with watched_graph(SIMULATED, RATIO) as graph:
        phases = run(Incidents(graph))
    wrong = [f"{name}: {text}" for name, phase in phases.items() for text in phase.wrong]
    assert wrong == []
    save(
        RESULTS,
        {
            **about(),
            "simulated": SIMULATED,
            "no_batches": NO_BATCHES,
            "per_s": PER_S,
            "per_s_without_batches": NEAR_THE_LIMIT_PER_S,
            "arrivals": f"Poisson, seeds 1, 2, 3, {SEED}, {SEED}",
            "sampling_ratio": RATIO,
            "p95_improved_by": round(improvement(phases["no_batches"], phases["as_the_doctor_says"]), 3),
            "phases": {name: phase.figures() for name, phase in phases.items()},
        },
    )
