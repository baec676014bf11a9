"""A real Prometheus with the project's configuration and Ray's file of targets, which lists two nodes.

The nodes are two servers of metrics, on two addresses of the loopback interface. That Ray writes such a file, with all
nodes in it, is tested on real nodes: tests/drills/test_nodes_watched.py.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from bench.measuring.private_monitoring import private_monitoring
from cluster import monitoring
from cluster.cli_error import CliError
from cluster.monitoring import TARGETS, Thresholds
from tests.proof.test_metrics_served import Prometheus

pytestmark = pytest.mark.proof

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
WAITING = 9  #: traces on the second node
PAGE = """# TYPE ray_cosygraph_traces_waiting gauge
ray_cosygraph_traces_waiting{{application="cosygraph",replica="{name}"}} {waiting}
# TYPE ray_node_cpu_utilization gauge
ray_node_cpu_utilization{{NodeAddress="{name}"}} 12.5
"""


@contextmanager
def node(address: str, waiting: int) -> Iterator[str]:
    """Serve a node's metrics; yields the target."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(PAGE.format(name=address, waiting=waiting).encode())

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Metrics)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"{address}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_each_series_names_its_node_and_what_waited_on_a_lost_one_is_counted(tmp_path):
    try:
        monitoring.check()
    except CliError as missing:
        pytest.skip(str(missing))

    def list_targets(*targets: str) -> None:
        new = tmp_path / "new.json"
        new.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [*targets, f"{FIRST}:0"]}]))
        new.replace(tmp_path / TARGETS)

    head = SimpleNamespace(folder=str(tmp_path))
    with node(FIRST, 0) as first, node(SECOND, WAITING) as second:
        list_targets(first, second)
        with private_monitoring(head, None, Thresholds(window_s=30, hold_s=1, every_s=1)) as servers:
            prometheus = Prometheus(servers["prometheus"].url)
            end = time.monotonic() + 30
            while True:
                up = prometheus.ask('up{job="ray"} == 1')
                if sorted(series["metric"]["node"] for series in up) == [FIRST, SECOND]:
                    break
                assert time.monotonic() < end, up
                time.sleep(0.5)
            by_node = prometheus.wait_for("avg by (node) (ray_node_cpu_utilization)")
            assert sorted(series["metric"]["node"] for series in by_node) == [FIRST, SECOND]
            prometheus.wait_for("last_over_time(sum by (node) (ray_cosygraph_traces_waiting)[30s:15s]) > 0", 30)
            # Before its first reading the graph looks gone, and with a hold of a second that is told.
            while firing := prometheus.firing():
                assert firing <= {"GraphGone None"} and time.monotonic() < end + 30, firing
                time.sleep(0.5)
            end = time.monotonic() + 30
            list_targets(first)  # as Ray does when it counts the node as dead
            while not (lost := prometheus.ask('ALERTS{alertname="TracesLost", alertstate="firing"}')):
                assert time.monotonic() < end + 30, "no alert"
                time.sleep(0.5)
            assert [series["metric"]["node"] for series in lost] == [SECOND]
