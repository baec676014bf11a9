"""Compare the scaling policy with Serve's default, by simulation: `python -m bench.scaling`.

The same arrivals (calm, ramp, burst, day; open loop, from a fixed seed) go through a simulated graph of an ingress and
four stages (`bench/autoscaling/graph.py`), once for each policy and each setting of it. Serve's default is Ray's own
code. It is run with the replica counts and targets of cluster/serve.cluster.yaml: with Serve's delays (`default`), and
with other delays, other targets and reports each second (`tuned`), since a reader may tune it too. For each run of ours
the table has the best P99 that the default has, and the best that any tuned default has, with no more replica-seconds;
and the fewest replica-seconds with which either has no longer a P99. A refused or late request counts as 60 s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ray.serve.config import AutoscalingConfig

from bench import results
from bench.autoscaling.arrivals import RATES, SEED, rates, recorded
from bench.autoscaling.controller import Controller, clock_of
from bench.autoscaling.graph import DEADLINE_S, INGRESS, SPECS, Graph, Spec
from deployments.scaling.serve_policy import ScaleByWait

SETTLE_S = 120.0  #: after the last arrival, for what is still inside
WAITS_S = (0.25, 0.5, 0.7, 1.0, 2.0)
TARGETS = (0.25, 0.5, 1.0, 2.0)  #: of the config's target_ongoing_requests
DELAYS_S = ((30.0, 600.0), (30.0, 120.0), (10.0, 120.0), (0.0, 60.0))


@dataclass(frozen=True)
class Setting:
    """One policy with its settings."""

    kind: str  #: default, tuned or ours
    wait_s: float = 0.0
    target: float = 1.0
    up_s: float = 30.0
    down_s: float = 600.0
    every_s: float = 10.0

    @property
    def name(self) -> str:
        if self.kind == "ours":
            return f"wait_s {self.wait_s:g}"
        return f"{self.kind}: targets x {self.target:g}, delays {self.up_s:g}/{self.down_s:g} s"

    def config(self, spec: Spec) -> AutoscalingConfig:
        """Return Serve's autoscaling config of a service."""
        return AutoscalingConfig(
            min_replicas=spec.least,
            max_replicas=spec.most,
            target_ongoing_requests=spec.ongoing * self.target,
            upscale_delay_s=self.up_s,
            downscale_delay_s=self.down_s,
            metrics_interval_s=self.every_s,
            look_back_period_s=10.0 if self.kind == "ours" else 30.0,
        )


def settings() -> list[Setting]:
    ours = [Setting("ours", wait_s=wait_s, up_s=0.0, down_s=0.0, every_s=1.0) for wait_s in WAITS_S]
    default = [Setting("default", target=target) for target in TARGETS]
    tuned = [
        Setting("tuned", target=target, up_s=up_s, down_s=down_s, every_s=1.0)
        for target, (up_s, down_s) in itertools.product(TARGETS, DELAYS_S)
    ]
    return [*ours, *default, *tuned]


@dataclass(frozen=True)
class Run:
    """The outcome of one load under one setting. Times in seconds."""

    load: str
    setting: Setting
    requests: int
    failed: int
    p50_s: float
    p99_s: float
    replica_s: float
    by_service: dict[str, float]
    most: dict[str, int]
    changes: int
    turns: int  #: changes of direction of tts-service's target


def turns(targets: list[int]) -> int:
    """Count the changes of direction in a series."""
    steps = [after - before for before, after in itertools.pairwise(targets) if after != before]
    return sum(one * other < 0 for one, other in itertools.pairwise(steps))


@contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger from writing less than what is critical."""
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def run(load: str, setting: Setting, seed: int = SEED, specs: Sequence[Spec] = SPECS, label: str = "") -> Run:
    """Run a load under a setting.

    Args:
        load: its name.
        setting: the policy.
        seed: of the arrivals, and of the service times where it is not SEED.
        specs: the services.
        label: the run's load in tables; the load's name by default.
    """
    arrivals = recorded(load, seed)
    graph = Graph(tuple(specs), 1 if seed == SEED else seed)
    with clock_of(graph.clock), quiet(logging.getLogger("ray.serve")):  # each change of a target is a line there
        policy = ScaleByWait(wait_s=setting.wait_s) if setting.kind == "ours" else None
        controller = Controller(graph, {spec.name: setting.config(spec) for spec in specs}, policy)
        moments = iter(arrivals)

        def come() -> None:
            graph.arrive()
            if (moment := next(moments, None)) is not None:
                graph.clock.at(float(moment), come)

        graph.clock.at(float(next(moments)), come)
        end = len(rates(load, seed))
        graph.clock.run(end)
        by_service = {service.spec.name: service.seconds_until(end) for service in graph.services}
        graph.clock.run(end + SETTLE_S)
    assert policy is None or policy.failures == 0, "the policy has failed"
    answers = np.array([one.ended_s - one.came_s if one.ok else DEADLINE_S for one in graph.requests])
    history = [targets for at, targets in controller.history if at <= end]
    return Run(
        label or load,
        setting,
        len(answers),
        sum(not one.ok for one in graph.requests),
        round(float(np.percentile(answers, 50)), 3),
        round(float(np.percentile(answers, 99)), 3),
        round(sum(by_service.values())),
        {name: round(seconds) for name, seconds in by_service.items()},
        {spec.name: max(targets[spec.name] for targets in history) for spec in specs},
        sum(before[name] != after[name] for before, after in itertools.pairwise(history) for name in before),
        turns([targets["tts-service"] for targets in history]),
    )


def beside(ours: Run, others: list[Run]) -> dict[str, Any]:
    """Compare a run of ours with the runs of others under the same load."""
    found: dict[str, Any] = {}
    for kind, kinds in (("default", {"default"}), ("tuned", {"default", "tuned"})):
        peers = [one for one in others if one.setting.kind in kinds and one.load == ours.load]
        cheap = min((one for one in peers if one.replica_s <= ours.replica_s * 1.01), key=_p99, default=None)
        quick = min((one for one in peers if one.p99_s <= ours.p99_s * 1.01), key=_replica_s, default=None)
        found[kind] = {
            "p99_s with no more replicas": cheap and cheap.p99_s,
            "by": cheap and cheap.setting.name,
            "replica_s with no longer a P99": quick and quick.replica_s,
            "of": quick and quick.setting.name,
        }
    return found


def _p99(one: Run) -> float:
    return one.p99_s


def _replica_s(one: Run) -> float:
    return one.replica_s


def kept(name: str = "scaling") -> list[Run]:
    """Return the runs of a results file; none where there is no file yet."""
    file = results.FOLDER / f"{name}.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    return [Run(**one | {"setting": Setting(**one["setting"])}) for one in found["runs"]]


def merged(old: list[Run], new: list[Run]) -> list[Run]:
    """Lay new runs over old ones, in the order of loads and settings."""
    found = {(one.load, one.setting): one for one in (*old, *new)}
    return [found[load, one] for load in RATES for one in settings() if (load, one) in found]


def _timed(work: tuple[str, Setting]) -> Run:
    began = time.perf_counter()
    found = run(*work)
    print(
        f"{found.load:6} {found.setting.name:45} P50 {found.p50_s:6.2f} P99 {found.p99_s:6.2f} failed {found.failed:5} "
        f"replica-s {found.replica_s:7.0f} changes {found.changes:4} turns {found.turns:3} "
        f"({time.perf_counter() - began:.0f} s)",
        flush=True,
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument(
        "--kinds", nargs="+", choices=["ours", "default", "tuned"], default=["ours", "default", "tuned"]
    )
    parser.add_argument("--waits", nargs="+", type=float, default=WAITS_S, help="wait_s of the policy")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the file's runs that are not made again")
    options = parser.parse_args()
    wanted = [one for one in settings() if one.kind in options.kinds and one.wait_s in (0.0, *options.waits)]
    work = [(load, one) for load in options.loads for one in wanted]
    if options.processes > 1:
        with ProcessPoolExecutor(options.processes) as pool:
            runs = list(pool.map(_timed, work))
    else:
        runs = list(map(_timed, work))
    if options.keep:
        runs = merged(kept(), runs)
    if len(runs) == len(RATES) * len(settings()):
        results.write(
            "scaling",
            {
                "simulated": True,
                "seed": SEED,
                "services": [asdict(spec) for spec in SPECS],
                "ingress": INGRESS,
                "runs": [asdict(one) for one in runs],
                "beside": [
                    {"load": one.load, "ours": one.setting.name, "p99_s": one.p99_s, "replica_s": one.replica_s}
                    | beside(one, runs)
                    for one in runs
                    if one.setting.kind == "ours"
                ],
            },
        )
    for one in runs:
        if one.setting.kind == "ours":
            print(f"{one.load:6} {one.setting.name:12} P99 {one.p99_s:6.2f} replica-s {one.replica_s:7.0f}")
            for kind, figures in beside(one, runs).items():
                print(f"       {kind:8} " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
