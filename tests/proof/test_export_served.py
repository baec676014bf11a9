"""Export behind the real ingress: an ingress that dies, and a Zipkin or a disk that fails.

The faults of Zipkin are a stand-in's (`standin.py`), which hands on to the real one while it is well.
"""

from __future__ import annotations

import concurrent.futures
import os
import resource
import signal
import statistics
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

STAGES = 5  #: spans of a plain request


def counters(ray_driver) -> dict[str, int]:
    from ray import serve

    [counts] = serve.get_deployment_handle("cosyvoice3-api", "watched").broadcast("counters").results(timeout_s=20)
    return counts


def wait_until(condition, what: str, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {within_s:.0f} s"
        time.sleep(0.05)


def wait_for_another(app, pid: int) -> None:
    """Until the ingress is another process, and the only one."""
    wait_until(
        lambda: (
            [r["pid"] for r in app.replicas("cosyvoice3-api")] not in ([], [pid])
            and len(app.replicas("cosyvoice3-api")) == 1
        ),
        "a new ingress",
    )
    app.wait_ready()


def ids(app, count: int) -> list[str]:
    """Trace ids of so many requests, one after the other."""
    answers = [app.post() for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}, [answer.text[:200] for answer in answers]
    return [answer.headers["x-trace-id"] for answer in answers]


@contextmanager
def full_disk(pid: int, spool: Path):
    """The spool's writes fail, as on a full disk: its segment gets a hole beyond the process's limit of a file's size.

    Other files are left alone: Serve's own logging does not survive a full disk (it logs the failure, which fails).
    """
    [segment] = spool.glob(f"{pid}-*.spool")
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    os.truncate(segment, 2**31)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2**30, before[1]))
    try:
        yield
    finally:
        os.truncate(segment, 0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.proof
def test_neither_a_failing_zipkin_nor_a_full_disk_is_felt(ray_driver, watched, stand_in, watched_spool):
    watched.wait_ready()
    [replica] = watched.replicas("cosyvoice3-api")
    ids(watched, 10)  # warm
    took: dict[str, list[float]] = {}
    traced: dict[str, list[str]] = {}
    refused = counters(ray_driver).get("export_spool_refused", 0)

    def requests(mode: str, count: int = 7) -> None:
        for _ in range(count):
            began = time.perf_counter()
            traced.setdefault(mode, []).extend(ids(watched, 1))
            took.setdefault(mode, []).append(time.perf_counter() - began)

    for mode in ("down", "500", "400", "disk") * 2 + ("slow",):
        stand_in.mode = "well"
        requests("well")
        # After "slow" that takes as long as the attempt that was answered slowly needs to time out.
        wait_until(lambda: counters(ray_driver)["export_waiting"] == 0, "everything sent", 30)
        if mode == "disk":
            with full_disk(replica["pid"], watched_spool):
                requests(mode)
            continue
        stand_in.mode = mode
        requests(mode)
        if mode == "400":  # refused for good: none of them may meet a Zipkin that is well
            wait_until(lambda: counters(ray_driver)["export_waiting"] == 0, "every span refused", 30)
    stand_in.mode = "well"
    wait_until(lambda: counters(ray_driver)["export_waiting"] == 0, "everything sent", 30)
    assert all(stand_in.met[mode] for mode in ("500", "400", "slow")), "sending met them all"
    refusals = counters(ray_driver)["export_spool_refused"] - refused
    assert refusals == len(traced["disk"]), "the disk refused them all, and memory served"
    medians = {mode: statistics.median(times) * 1000 for mode, times in took.items()}
    print("median latency in ms:", {mode: round(ms, 1) for mode, ms in medians.items()})
    for mode, ms in medians.items():
        assert ms < 1.3 * medians["well"] + 10, (mode, medians)
    for mode in ("well", "down", "500", "disk", "slow"):
        for trace_id in traced[mode]:
            watched.trace(trace_id, spans=STAGES)


@pytest.mark.proof
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_ingress_killed_after_its_answers_loses_no_kept_trace(ray_driver, watched, stand_in, number):
    watched.wait_ready()
    [replica] = watched.replicas("cosyvoice3-api")
    stand_in.mode = "down"
    kept = ids(watched, 5)
    os.kill(replica["pid"], number)
    wire = b"".join(stand_in.seen)
    assert not any(trace_id.encode() in wire for trace_id in kept), "nothing of them was sent before"
    stand_in.mode = "well"
    if number == signal.SIGTERM:  # Ray lets it live on for half a minute, and it sends by itself
        for trace_id in kept:
            watched.trace(trace_id, spans=STAGES)
        os.kill(replica["pid"], signal.SIGKILL)
    wait_for_another(watched, replica["pid"])
    for trace_id in kept:
        watched.trace(trace_id, spans=STAGES)
    if number == signal.SIGKILL:
        assert counters(ray_driver)["export_adopted"] >= len(kept)


@pytest.mark.proof
def test_what_is_in_flight_when_the_ingress_dies_goes_to_the_next_one_and_its_trace_says_so(watched):
    watched.wait_ready()
    [ingress], [stage] = watched.replicas("cosyvoice3-api"), watched.replicas("tts-service")
    os.kill(stage["pid"], signal.SIGSTOP)
    try:
        request = concurrent.futures.ThreadPoolExecutor(1).submit(watched.post)
        time.sleep(0.7)
        os.kill(ingress["pid"], signal.SIGKILL)
    finally:
        os.kill(stage["pid"], signal.SIGCONT)
    answer: httpx.Response = request.result(timeout=30)
    assert answer.status_code in (200, 504), "the next one may start later than the deadline"
    spans = watched.trace(answer.headers["x-trace-id"], spans=STAGES + 1 if answer.status_code == 200 else 2)
    [lost] = [span for span in spans if "kind" not in span and "error" in span["tags"]]
    assert (
        lost["tags"]["error"].startswith("cosyvoice3-api was lost")
        and lost["tags"]["error.service"] == "cosyvoice3-api"
    )
    [root] = [span for span in spans if span["id"] == lost["parentId"]]
    assert root["localEndpoint"]["serviceName"] == "cosyvoice3-api"
    assert ("error" in root["tags"]) == (answer.status_code == 504)
    watched.wait_ready()
