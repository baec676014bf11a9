"""Shared by all tests: skipping, long tests, their order, the two real servers, and a stand-in for the API.

The servers are started on the first use, on free ports of loopback, once a session; their logs lie in pytest's
temporary folder. Every other helper belongs into the test file that uses it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster import loopback, ports, processes  # noqa: E402
from cluster import ray_head as ray_heads
from cluster import zipkin as zipkins
from cluster.cli_error import CliError  # noqa: E402
from tests.helpers.gating import nginx, start_gate, zipkin_with_canaries  # noqa: E402, F401
from tests.helpers.serving import (  # noqa: E402, F401
    apps,
    fast,
    otlp,
    slow,
    stand_in,
    tracing,
    voice,
    voices_folder,
    watched,
    watched_spool,
)

# Before anything imports Ray: drivers in this process reach the private head on 127.0.0.1.
loopback.keep()
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A thread of Serve's that outlives ray.shutdown() would otherwise start a Ray of its own.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

#: logical, for the bookkeeping of placement: the graph's replicas ask for fractions of what the machine really has
LOGICAL_CPUS, LOGICAL_GPUS = 16, 4


#: Marks of tests that take long, by the option that runs those tests and no others.
LONG = {"--proof": "proof", "--drills": "drill", "--soak": "soak"}


def pytest_addoption(parser):
    for option, mark in LONG.items():
        parser.addoption(option, action="store_true", help=f"run the tests marked `{mark}`, and only those")


def pytest_configure(config):
    """A terminated run (`timeout`, CI) stops its servers like one that ends: by default Python would just be gone."""
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.exit("terminated", returncode=143))
    # pytest-randomly would seed `random` alike for each test, and ids of traces in a shared Zipkin must differ.
    config.option.randomly_reset_seed = False


HAS_GPU = Path("/dev/nvidia0").exists()  #: tests marked `gpu` are left out elsewhere, as CI has none
LAST = "test_shutdown.py"  #: leaves an application of the whole session unusable


def _in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Sort the items that pytest-randomly has shuffled, and leave its order where any order will do.

    Files that need the session's Ray come last. Its two dozen replicas, idle, take CPU time from whatever runs beside
    them (0.7 of a core in one reading). Within a file of `unit`, any order will do. Tests of `served` and `proof` run
    as they stand in their file, because they share one running graph or stack, and some stop it. So do tests marked
    `in_order`.
    """
    group: dict[Path, int] = {}
    first: dict[Path, int] = {}
    for position, item in enumerate(items):
        place = 2 if item.path.name == LAST else int("ray_head" in item.fixturenames)
        group[item.path] = max(place, group.get(item.path, 0))
        first.setdefault(item.path, position)

    def key(numbered: tuple[int, pytest.Item]) -> tuple:
        position, item = numbered
        if item.get_closest_marker("in_order") or item.path.parent.name in ("served", "proof"):
            indices = item.callspec.indices.values() if hasattr(item, "callspec") else ()
            within = (item.location[1], *indices)
        else:
            within = (position,)
        return group[item.path], first[item.path], within

    return [item for _, item in sorted(enumerate(items), key=key)]


def pytest_collection_modifyitems(config, items):
    wanted = {mark for option, mark in LONG.items() if config.getoption(option)}
    chosen, left_out = [], []
    for item in items:
        marks = {mark for mark in LONG.values() if item.get_closest_marker(mark)}
        if item.path.parent.name == "proof" and not marks:
            raise pytest.UsageError(f"{item.nodeid} lies in tests/proof and has no mark: `make test` would run it")
        runs = marks & wanted or not (marks or wanted)
        runs = runs and (HAS_GPU or not item.get_closest_marker("gpu"))
        (chosen if runs else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = _in_order(chosen)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With COSYGRAPH_NO_SKIP=1 (CI) a skipped test has failed: everything can be had there, but what is `optional`."""
    outcome = yield
    report = outcome.get_result()
    may_skip = hasattr(report, "wasxfail") or item.get_closest_marker("optional")
    if report.skipped and not may_skip and os.environ.get("COSYGRAPH_NO_SKIP") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: nothing may be skipped here, but: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    """The same for a whole file that skips itself while it is collected (`pytest.importorskip`)."""
    outcome = yield
    report = outcome.get_result()
    if report.outcome == "skipped" and os.environ.get("COSYGRAPH_NO_SKIP") == "1":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: nothing may be skipped here, but: {report.longrepr}"


@pytest.fixture(scope="session")
def zipkin(tmp_path_factory):
    """A real Zipkin (`.url`, `.ui_url`); skips with what is missing where none can be had."""
    log = tmp_path_factory.mktemp("zipkin") / "zipkin.log"
    started = []
    try:
        server, missing = zipkins.find_or_start(ports.any_free(), log, lambda text: None, remember=started.append)
        if server is None:
            pytest.skip("no Zipkin: " + "; ".join(missing))
        yield server
    except CliError as problem:
        pytest.fail(str(problem))
    finally:
        for server in started:
            zipkins.stop(server.process, server.container)


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory, tracing):  # noqa: F811
    """A private Ray head (`.address`, `.dashboard_url`) with logical CPUs and GPUs, its logs kept beside the tests'."""
    folder = tmp_path_factory.mktemp("ray")
    started = []
    try:
        yield ray_heads.start(
            ports.any_free(),
            folder / "ray.log",
            num_cpus=LOGICAL_CPUS,
            num_gpus=LOGICAL_GPUS,
            remember=started.append,
            env={"COSYGRAPH_TRACING": json.dumps(tracing)},
        )
    except CliError as problem:
        pytest.fail(str(problem))
    finally:
        for head in started:
            head.stop(keep_logs_in=folder / "logs", grace_s=1.0)
            assert not processes.family(head.process)


@pytest.fixture(scope="session")
def ray_driver(ray_head):
    """This process connected to the private head, in Serve's namespace."""
    import ray

    ray.init(address=ray_head.address, namespace="serve", log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def standing_in():
    from tests.helpers.standin_api import StandInApi  # brings a web server along, which few tests need

    server = StandInApi()
    yield server
    server.close()


@pytest.fixture(scope="module")
def site_url(standing_in):
    """The web page in front of that stand-in."""
    from tests.helpers.standin_api import serve
    from webui import site

    server, url = serve(site.build(standing_in.url, "http://127.0.0.1:9411", "/docs"))
    yield url
    server.should_exit = True


@pytest.fixture(scope="module")
def browser():
    """Playwright's Browser; skips where there is no Chromium."""
    from tests.helpers.browser import chromium

    with chromium() as window:
        yield window


@pytest.fixture
def api(standing_in):
    """A stand-in for the HTTP API (`.url`), as good as new: for tests of its clients."""
    standing_in.reset()
    return standing_in
