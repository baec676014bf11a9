"""Try the scaling policy on loads that its thresholds were not chosen by: `python -m bench.scaling_held_out`.

`bench.scaling` was looked at, with one seed, while the policy was made. Here are other seeds of its burst and its day,
a sawtooth, and a graph whose bottleneck is another: vocoder-service has the times and the bounds of tts-service, and
the other way round. Beside the policy run Serve's default with the targets of cluster/serve.cluster.yaml and a quarter
of them, and the tunings of it that did best in `bench.scaling`. Nothing is chosen by what comes out.

Twenty minutes. `--loads` runs a part of them, by number, and keeps the others' figures.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace

from bench import results
from bench.autoscaling.arrivals import SEED
from bench.autoscaling.graph import SPECS, Spec
from bench.scaling import Run, Setting, kept, run

SEEDS = (1000, 2000, 3000)
SETTINGS = (
    *(Setting("ours", wait_s=wait_s, up_s=0.0, down_s=0.0, every_s=1.0) for wait_s in (0.25, 0.5, 0.7)),
    *(Setting("default", target=target) for target in (1.0, 0.25)),
    *(Setting("tuned", target=target, up_s=0.0, down_s=60.0, every_s=1.0) for target in (1.0, 0.5, 0.25)),
)


def swapped() -> tuple[Spec, ...]:
    """Return the graph in which tts-service and vocoder-service have each other's times and bounds."""
    known = {spec.name: spec for spec in SPECS}
    names = {"tts-service": "vocoder-service", "vocoder-service": "tts-service"}
    return tuple(replace(known[names.get(name, name)], name=name) for name in known)


@dataclass(frozen=True)
class HeldOut:
    """A load that no threshold was chosen by."""

    name: str
    load: str
    seed: int = SEED
    specs: tuple[Spec, ...] = SPECS


LOADS = (
    *(HeldOut(f"{load}, seed {seed}", load, seed) for load in ("burst", "day") for seed in SEEDS),
    HeldOut("sawtooth", "sawtooth"),
    *(HeldOut(f"{load}, vocoder the bottleneck", load, specs=swapped()) for load in ("burst", "day")),
)


def _timed(work: tuple[HeldOut, Setting]) -> Run:
    held_out, setting = work
    found = run(held_out.load, setting, held_out.seed, held_out.specs, held_out.name)
    print(
        f"{found.load:32} {setting.name:42} P50 {found.p50_s:5.2f} P99 {found.p99_s:6.2f} failed {found.failed:5} of "
        f"{found.requests} replica-s {found.replica_s:7.0f}",
        flush=True,
    )
    return found


def table(runs: list[Run]) -> str:
    """Return a row for each load: P99 in seconds and replica-seconds of each setting, and failed requests if any."""
    names = list(dict.fromkeys(one.setting.name for one in runs))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for load in dict.fromkeys(one.load for one in runs):
        row = {one.setting.name: one for one in runs if one.load == load}
        cells = [
            f"{one.p99_s:.1f}; {one.replica_s:,.0f}" + (f" ({one.failed:,} failed)" if one.failed else "")
            for one in (row[name] for name in names)
        ]
        lines.append(f"| {load} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--loads", nargs="+", type=int, choices=range(len(LOADS)), default=range(len(LOADS)))
    options = parser.parse_args()
    work = [(LOADS[number], setting) for number in options.loads for setting in SETTINGS]
    with ProcessPoolExecutor(options.processes) as pool:
        made = list(pool.map(_timed, work))
    found = {(one.load, one.setting): one for one in (*kept("scaling_held_out"), *made)}
    runs = [found[load.name, setting] for load in LOADS for setting in SETTINGS if (load.name, setting) in found]
    results.write("scaling_held_out", {"simulated": True, "seeds": SEEDS, "runs": [asdict(one) for one in runs]})
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
