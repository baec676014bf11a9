"""Every alert of docs/runbook.md, provoked, looked at and mended: `python -m bench.drills`.

A graph of its own (simulated engine, a second one that stands by, the watchdog), a real Zipkin, a real Prometheus with
the project's rules and a real Alertmanager. The rules' windows are 30 s in place of five minutes, what must hold must
for 5 s, looks are 5 s apart and not 30, slow is above 1 s, and a canary comes every two seconds; nothing else of the
rules is changed. Traffic goes on all the time.

For each: nothing fires; something happens (`bench/misfortunes.py`); its alert fires; the link in it is opened as
Zipkin's page would (not where Zipkin is stopped, or no trace is at fault); the runbook's steps for this trouble show
what they say; what is at fault is mended; the alert is gone.
Exits with 1 where one of these is not so. It takes about a quarter of an hour, and makes the runbook's table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import results
from bench.alerts import Alerts, Unlike
from bench.drill_place import Place
from bench.misfortunes import ALL, CALM, GOOD, NOT_TRIED, Misfortune
from bench.private_graph import private_graph
from bench.private_monitoring import private_monitoring
from bench.private_zipkin import private_zipkin
from bench.traffic import Traffic
from cluster.monitoring import Thresholds

THRESHOLDS = Thresholds(window_s=30, hold_s=5, slow_s=1.0, every_s=5)
SIMULATED = {"prepare_ms": 1, "encode_ms": 2, "generate_ms": 100, "vocode_ms": 2, "batch_slope": 0.1, "seconds": 1}
WATCHDOG = {
    "check_every_s": 1,
    "canary_every_s": 2,
    "canary_slow_s": 20,
    "canary_within_s": 30,
    "failures": 3,
    "successes": 3,
    "backoff_s": 5,
}
HISTORY_S = 75.0  #: of good traffic before the first: what a window is compared with
FIRES_WITHIN_S, GONE_WITHIN_S = 150.0, 240.0


def drill(kind: Misfortune, place: Place) -> dict:
    """Raises Unlike where it doesn't go as it must."""
    if kind.alone:
        place.alerts.wait_until_gone(None, GONE_WITHIN_S)
    began = time.monotonic()
    kind.begin(place)
    try:
        while kind.alert not in (firing := place.alerts.firing()):
            if time.monotonic() - began > FIRES_WITHIN_S:
                raise Unlike(f"it does not fire within {FIRES_WITHIN_S:.0f} s, but {sorted(firing) or 'nothing'}")
            kind.goes_on(place)
            time.sleep(0.5)
        fired_s, alert = time.monotonic() - began, firing[kind.alert]
        seen = kind.look(place, alert)
        beside = sorted(place.alerts.firing().keys() - {kind.alert})
    finally:
        mended = time.monotonic()
        kind.mend(place)
    gone_s = None
    if kind.ends:
        place.alerts.wait_until_gone({kind.alert}, GONE_WITHIN_S)
        gone_s = time.monotonic() - mended
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "alert": kind.alert,
        "happens": kind.happens,
        "fired_s": round(fired_s, 1),
        "value": alert.notes["value"],
        "stage": alert.notes["stage"],
        "summary": alert.notes["summary"],
        "seen": seen,
        "beside": beside,
        "mended": kind.mended,
        "gone_s": gone_s and round(gone_s, 1),
    }


def row(found: dict) -> str:
    """Of the runbook's table."""
    gone = f"{found['mended']}: gone after {found['gone_s']:.0f} s" if found["gone_s"] else found["mended"]
    beside = ", ".join(found["beside"]) or "–"
    return (
        f"| {found['alert']} | {found['happens']} | {found['fired_s']:.0f} s, “{found['value']}” | "
        f"{found['seen']} | {beside} | {gone} |"
    )


def before(only: list[str] | None) -> list[dict]:
    """What the last run found of the alerts that this one leaves out."""
    file = results.FOLDER / "drills.json"
    found = json.loads(file.read_text())["drills"] if only and file.exists() else []
    return [one for one in found if one["alert"] not in only]


def merged(rows: list[dict], others: list[dict]) -> list[dict]:
    """In the order in which they are tried."""
    order = [(kind.alert, kind.happens) for kind in ALL]
    return sorted((*rows, *others), key=lambda one: order.index((one["alert"], one["happens"])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ALERT", help="these alone; the others stay as they were measured")
    options = parser.parse_args()
    kinds = [kind() for kind in ALL if not options.only or kind.alert in options.only]
    rows, wrong = [], []
    with tempfile.TemporaryDirectory(prefix="bench-drills-") as folder, private_zipkin() as zipkin_url:
        fault = Path(folder) / "fault"
        args = {
            "engine": "simulated",
            "engine_options": SIMULATED | {"faults": True, "fault_file": str(fault)},
            "fallback": {"engine": "simulated", "engine_options": SIMULATED},
            "limits": {"deadline_s": 20},
            "tracing": {"spool_limit_mb": 2, "retry_most_s": 2},
        }
        with (
            private_graph(args, num_cpus=8, zipkin_url=zipkin_url, watchdog=WATCHDOG) as graph,
            private_monitoring(graph.head, zipkin_url, THRESHOLDS) as servers,
        ):
            place = Place(graph, zipkin_url, Alerts(servers["prometheus"].url), Traffic(graph.port, GOOD, *CALM), fault)
            place.traffic.start()
            time.sleep(HISTORY_S)
            for kind in kinds:
                print(f"== {kind.alert}: {kind.happens}", flush=True)
                try:
                    rows.append(drill(kind, place))
                    print(row(rows[-1]), flush=True)
                except Unlike as error:
                    wrong.append(f"{kind.alert}: {error}")
                    print(f"WRONG: {error}", flush=True)
            place.traffic.stop()
    rows = merged(rows, before(options.only))
    print(*map(row, rows), sep="\n")
    print("\n".join(wrong) or "all went as the runbook says")
    results.write(
        "drills",
        {
            "simulated": SIMULATED,
            "thresholds": vars(THRESHOLDS),
            "watchdog": WATCHDOG,
            "drills": rows,
            "not_tried": NOT_TRIED,
            "wrong": wrong,
        },
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
