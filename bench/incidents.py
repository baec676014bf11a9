"""Three incidents, made on purpose, and whether the doctor finds them: `python -m bench.incidents`.

A graph of its own (simulated engine, its GPU's batch curve stated below), a real Zipkin, a real Prometheus, a tenth of
the traces kept. Four callers with keys send in an open loop. One after the other:

- nothing is wrong: the doctor must ask for nothing;
- the telephone company's recordings have 8 kHz: 15 % of all requests are refused. Every one of them must be in Zipkin,
  and the doctor must say it in one line: 8 kHz, their share, whose they are;
- the radio station and the school leave their dialect out. The station's are refused; the school's key has a dialect,
  which stands in, and that must show;
- somebody sets tts-service's batches to one. The doctor must name the setting; its own `--apply batch` changes it, in
  the same process, and the same requests come once more: their P95 must be lower by 60 % at least.

The doctor is told where Zipkin and Prometheus are and how far back to look: to the start of what it is asked about, at
which time everything before has been counted; and, before it changes anything, about all of it at once. Exits with 1
where anything is not as it must be.

The load of the last incident is 93 % of what batches of one can do in simulated compute alone (6.3 requests a second,
98 % of them good; 150 ms each are 6.67). A queue that close to its limit grows for minutes, so its P95 belongs to the
stated length of the run.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench import doctor, results
from bench.callers import KEYS, Answers, Kind, Mix
from bench.doctor import Report
from bench.episode import Episode, improvement
from bench.kept import has_rate
from bench.watched_graph import LOOKS_ROUND_S, WatchedGraph, watched_graph

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
    def __init__(self, graph: WatchedGraph) -> None:
        self.graph, self.kept, self.doctor = graph, graph.kept, graph.doctor
        self.hashes: dict[str, str] = {}  #: by caller
        self.began = time.monotonic()
        self.sent: list[Answers] = []

    def episode(self, mix: Mix, per_s: float, seconds: float, seed: int) -> Episode:
        """Send, wait until all is counted, ask."""
        began = time.monotonic()
        answers = self.graph.callers.send(mix, per_s, seconds, seed)
        self.sent.append(answers)
        time.sleep(COUNTED_S)
        report = self.doctor.ask(time.monotonic() - began)
        wrong = [f"{what}, {count} times" for what, count in answers.unexpected.items()]
        traces = self.kept.refused(answers.refused, time.monotonic() - began)
        if len(traces) != len(answers.refused):
            wrong.append(f"{len(answers.refused)} requests were refused, and Zipkin has {len(traces)} of them")
        return Episode(answers, began, report, wrong)

    def meet(self, answers: Answers) -> None:
        """Find out under which hash each caller stands in Zipkin."""
        self.hashes = {caller: self.kept.user_hash(answers.of(caller)) for caller in KEYS}

    def every_day(self, seconds: float) -> Episode:
        self.graph.callers.send(EVERY_DAY, PER_S, WARM_S, seed=0)  # the first requests of a process are slow
        time.sleep(COUNTED_S)
        self.began = time.monotonic()
        episode = self.episode(EVERY_DAY, PER_S, seconds, seed=1)
        self.meet(episode.answers)
        episode.wrong += doctor.nothing_to_do(episode.report)
        return episode

    def narrow(self, seconds: float) -> Episode:
        episode = self.episode(NARROW, PER_S, seconds, seed=2)
        narrow = episode.answers.of("phone", "narrow")
        known = sum(has_rate(trace, 8000) for trace in self.kept.refused(narrow, episode.since_s))
        if known != len(narrow):
            episode.wrong.append(f"of {len(narrow)} requests with 8 kHz Zipkin knows the rate of {known}")
        episode.wrong += self.names_narrow_recordings(episode.report, [episode.answers])
        return episode

    def names_narrow_recordings(self, report: Report, sent: list[Answers]) -> list[str]:
        narrow, refused, all_of_them = (
            sum(counts)
            for counts in zip(
                *((len(one.of("phone", "narrow")), len(one.refused), len(one.samples)) for one in sent), strict=True
            )
        )
        others = [user for caller, user in self.hashes.items() if caller != "phone"]
        return doctor.names_narrow_recordings(
            report, self.hashes["phone"], others, (narrow / all_of_them, narrow / refused)
        )

    def forgotten(self, seconds: float) -> Episode:
        episode = self.episode(FORGOTTEN, PER_S, seconds, seed=3)
        episode.wrong += self.names_forgotten_dialects(episode.report, [episode.answers])
        return episode

    def names_forgotten_dialects(self, report: Report, sent: list[Answers]) -> list[str]:
        saved = sum(len(one.of("school", "forgotten")) for one in sent)
        return doctor.names_forgetful_caller(report, self.hashes["radio"]) + doctor.shows_fallback(report, saved)

    def no_batches(self, seconds: float) -> Episode:
        self.graph.set_batches(NO_BATCHES)
        episode = self.episode(EVERY_DAY, NEAR_THE_LIMIT_PER_S, seconds, SEED)
        change = doctor.change_of_batches(episode.report)
        if change is None or change["deployment"] != "tts-service":
            episode.wrong.append(f"the doctor would change {change}, and not the batches of tts-service")
        episode.wrong += self.all_at_once()
        return episode

    def as_the_doctor_says(self, before: Episode) -> Episode:
        """The same requests once more, after its change."""
        processes = self.graph.processes()
        self.doctor.apply_batch(before.since_s)
        time.sleep(LOOKS_ROUND_S)
        after = self.episode(EVERY_DAY, NEAR_THE_LIMIT_PER_S, before.answers.seconds, SEED)
        if self.graph.processes() != processes:
            after.wrong.append("replicas were replaced: the change was not live")
        after.wrong += doctor.nothing_to_do(after.report)
        if (less := improvement(before, after)) < IMPROVES_BY:
            after.wrong.append(f"P95 is lower by {less:.0%}, and not by {IMPROVES_BY:.0%}")
        return after

    def all_at_once(self) -> list[str]:
        """Asked about everything there has been."""
        report = self.doctor.ask(time.monotonic() - self.began)
        print("== all at once", *report.lines, sep="\n  ", flush=True)
        return [
            f"all at once: {text}"
            for text in (
                *self.names_narrow_recordings(report, self.sent),
                *self.names_forgotten_dialects(report, self.sent),
            )
        ]


def run(incidents: Incidents, seconds: float, load_seconds: float) -> dict[str, Episode]:
    """All episodes by name, told as they end."""
    found: dict[str, Episode] = {}

    def tell(name: str, episode: Episode) -> None:
        found[name] = episode
        figures = " ".join(f"{figure} {value};" for figure, value in episode.figures().items() if figure != "doctor")
        print(
            f"== {name}: {figures}",
            *episode.report.lines,
            *(f"WRONG: {text}" for text in episode.wrong),
            sep="\n  ",
            flush=True,
        )

    tell("every_day", incidents.every_day(seconds))
    tell("narrow", incidents.narrow(seconds))
    tell("forgotten", incidents.forgotten(seconds))
    tell("no_batches", incidents.no_batches(load_seconds))
    tell("as_the_doctor_says", incidents.as_the_doctor_says(found["no_batches"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45, help="of requests, in the first three")
    parser.add_argument("--load-seconds", type=float, default=75, help="the same in the last, each time")
    options = parser.parse_args()
    with watched_graph(SIMULATED, RATIO) as graph:
        incidents = Incidents(graph)
        found = run(incidents, options.seconds, options.load_seconds)
    wrong = [f"{name}: {text}" for name, episode in found.items() for text in episode.wrong]
    less = improvement(found["no_batches"], found["as_the_doctor_says"])
    print(f"after the doctor's change P95 is lower by {less:.1%}")
    print("\n".join(wrong) or "nothing is wrong")
    results.write(
        "incidents",
        {
            "simulated": SIMULATED,
            "no_batches": NO_BATCHES,
            "per_s": PER_S,
            "per_s_without_batches": NEAR_THE_LIMIT_PER_S,
            "arrivals": f"Poisson, seeds 1, 2, 3, {SEED}, {SEED}",
            "sampling_ratio": RATIO,
            "p95_improved_by": round(less, 3),
            "wrong": wrong,
            "episodes": {name: episode.figures() for name, episode in found.items()},
        },
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
