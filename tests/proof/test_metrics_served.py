"""From requests to WeCom: the real graph, Prometheus and Alertmanager, with windows of half a minute.

One load of good, slow, failing, streamed and stored-voice requests feeds it all: what Prometheus has of it, every panel
of the dashboards, an alert that reaches WeCom by both ways, and its link, which finds exactly the slow requests.
"""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from cluster import monitoring, ports
from cluster.cli_error import CliError
from cluster.grafana import queries
from cluster.monitoring import Monitoring, Thresholds
from cluster.processes import family
from cluster.wecom import Application, Robot, Wecom
from config.routes import LIVE
from deployments.ingress.metrics import ERROR_TYPES, MODES
from speech.dialects import DIALECTS
from tests.helpers.fake_wecom import AGENT, CORP, KEY, SECRET, FakeWecom
from tests.helpers.serving import tone
from tests.served.test_trace_page import page  # noqa: F401
from tracing.vocabulary import ROUTES, STAGES

pytestmark = pytest.mark.proof

SLOW_S = 0.1  #: an edge below what `fast` takes: its models alone sleep for 180 ms
WINDOW_S, HOLD_S = 30, 5


class Prometheus:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(
            base_url=url, trust_env=False, timeout=20, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def ask(self, query: str) -> list[dict]:
        answer = self._http.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        return answer["data"]["result"]

    def wait_for(self, query: str, within_s: float = 60.0) -> list[dict]:
        end = time.monotonic() + within_s
        while not (found := self.ask(query)):
            assert time.monotonic() < end, f"no data within {within_s:.0f} s: {query}"
            time.sleep(1)
        return found

    def firing(self) -> set[str]:
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {
            f"{alert['labels']['alertname']} {alert['labels'].get('application')}"
            for alert in alerts
            if alert["state"] == "firing"
        }


class Load(threading.Thread):
    """Asks for this and that until it is told to stop; `slow` are the trace ids of good requests to `fast`."""

    def __init__(self, fast, watched) -> None:
        super().__init__(daemon=True)
        self._fast, self._watched = fast, watched
        self._over = threading.Event()
        self.slow: list[str] = []

    def run(self) -> None:
        voice = httpx.post(
            f"{self._fast.url}/v1/audio/voices",
            data={"name": "metrics", "dialect": "en-US", "consent": "Agreed for tests."},
            files={"audio_sample": ("v.wav", tone())},
            timeout=60,
            trust_env=False,
        )
        assert voice.status_code in (200, 201), voice.text
        while not self._over.is_set():
            for _ in range(4):
                self.slow.append(self._fast.post(mode="fast").headers["x-trace-id"])
            self._fast.post(dialect="zh-Sichuan", mode="instruct", style_instruction="slowly")
            self._fast.post(dialect="nowhere")
            self._fast.post(stream_format="audio", text="One. Two.")
            httpx.post(
                f"{self._fast.url}/api/generate",
                timeout=60,
                trust_env=False,
                data={"text": "Hello", "dialect": "en-US", "voice": "metrics"},
            )
            self._watched.post(text="fault:generate")
            self._watched.post()
            with connect(f"{self._fast.url}{LIVE}".replace("http", "ws", 1), proxy=None) as session:
                session.send(json.dumps({"type": "session.config", "voice": "metrics", "dialect": "en-US"}))
                session.send(json.dumps({"type": "session.close"}))
                while "session.configured" not in str(session.recv(timeout=60)):
                    pass

    def stop(self) -> None:
        self._over.set()
        self.join(60)
        httpx.delete(f"{self._fast.url}/v1/audio/voices/metrics", timeout=60, trust_env=False)


def roots(zipkin: str, **asked) -> dict[str, dict]:
    """The ingress's spans of the traces that Zipkin finds, by trace id."""
    traces = httpx.get(f"{zipkin}/api/v2/traces", params=asked, trust_env=False, timeout=30).json()
    return {
        span["traceId"]: span
        for trace in traces
        for span in trace
        if span["localEndpoint"]["serviceName"] == "cosyvoice3-api" and span.get("kind") == "SERVER"
    }


def exactly(zipkin: str, window: dict, least_us: int, limit: int, within_s: float = 20.0) -> dict[str, dict]:
    """Search Zipkin from that duration on: all that there is in the window, and nothing else. Waits, since a
    request of the window may still be under way."""
    end = time.monotonic() + within_s
    while True:
        found = roots(zipkin, **window, minDuration=least_us, limit=limit)
        slow = {
            trace_id for trace_id, root in roots(zipkin, **window, limit=5000).items() if root["duration"] >= least_us
        }
        if found and set(found) <= slow and len(found) == min(len(slow), limit):
            return found
        assert time.monotonic() < end, f"the link finds {len(found)} of {len(slow)}"
        time.sleep(1)


@pytest.fixture(scope="module")
def wecom():
    fake = FakeWecom()
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def stack(ray_head, zipkin, apps, wecom, tmp_path_factory):
    """{name: server} of monitoring's, started as the launcher starts them."""
    try:
        monitoring.check()
    except CliError as missing:
        pytest.skip(str(missing))
    servers: dict[str, monitoring.Server] = {}
    ways = Wecom(Application(CORP, AGENT, SECRET, "@all", wecom.api), Robot(KEY, wecom.api))
    try:
        started = Monitoring(
            tmp_path_factory.mktemp("monitoring"),
            print,
            servers.__setitem__,
            ways,
            Thresholds(WINDOW_S, HOLD_S, SLOW_S, every_s=5),
        )
        started.start(ray_head, zipkin.url, ports.any_free(), ports.any_free())
        yield servers
    finally:
        for server in servers.values():
            server.stop()
            assert not family(server.process)


@pytest.fixture(scope="module")
def prometheus(stack) -> Prometheus:
    return Prometheus(stack["prometheus"].url)


@pytest.fixture(scope="module")
def load(stack, prometheus, apps, stand_in):
    """Lasts until the alert fires: then every rate has two points at least."""
    stand_in.mode = "well"
    assert "RequestsSlow fast" not in prometheus.firing(), "silent before"
    load = Load(apps["fast"], apps["watched"])
    load.start()
    end = time.monotonic() + 90
    while "RequestsSlow fast" not in prometheus.firing():
        assert time.monotonic() < end, "no alert"
        time.sleep(0.5)
    yield load
    load.stop()


def test_an_alert_reaches_wecom_both_ways_and_links_to_exactly_its_traces(load, wecom, fast):
    def by(messages):
        return next((content for content in messages if "RequestsSlow" in content and "fast" in content), None)

    by_robot = wecom.wait_for(lambda: by(wecom.robot), 30)
    by_application = wecom.wait_for(lambda: by([m["markdown"]["content"] for m in wecom.application]), 30)
    for content in (by_robot, by_application):
        assert re.search(r"> stage: (GENERATE_MEL|VOCODE_WAV|EXTRACT_SPEAKER|PREPROCESS_AUDIO)", content), content
        assert re.search(r"> value: [\d.]+m?s", content)
        link = re.search(r"\[its traces\]\((\S+)\)", content)[1]
        asked = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
        assert link.startswith(f"{fast.zipkin}/zipkin/?") and asked["serviceName"] == "cosyvoice3-api"
        least_us, end_ms, lookback_ms = (int(asked[name]) for name in ("minDuration", "endTs", "millis"))
        assert least_us == SLOW_S * 1e6 and lookback_ms == (WINDOW_S + HOLD_S) * 1000
        # What Zipkin's page asks its server for when it is opened at this address.
        window = {"serviceName": asked["serviceName"], "endTs": end_ms, "lookback": lookback_ms}
        found = exactly(fast.zipkin, window, least_us, int(asked["limit"]))
        assert set(found) & set(load.slow), "and they are those that were slow for their client"
        for root in found.values():
            assert end_ms - lookback_ms <= root["timestamp"] / 1000 <= end_ms


def test_zipkins_page_opens_at_the_link_with_its_traces(load, wecom, page):  # noqa: F811
    content = wecom.wait_for(lambda: next((one for one in wecom.robot if "RequestsSlow" in one), None), 30)
    page.goto(re.search(r"\[its traces\]\((\S+)\)", content)[1])
    page.get_by_text("post /api/generate").first.wait_for(timeout=30_000)
    assert "serviceName cosyvoice3-api minDuration 100000" in " ".join(page.inner_text("body").split())


def test_prometheus_has_what_the_requests_were(load, prometheus):
    [good] = prometheus.ask(
        'sum(ray_cosygraph_requests_total{application="fast", dialect="english-us", mode="fast",'
        'outcome="ok", error_type="none", route="/api/generate"})'
    )
    assert float(good["value"][1]) >= 20
    assert prometheus.ask('ray_cosygraph_requests_total{outcome="refused", error_type="input_validation"} > 0')
    assert prometheus.ask(
        'ray_cosygraph_stage_seconds_count{application="watched", stage="GENERATE_MEL", outcome="failed"}'
    )
    stages = prometheus.ask('sum by (stage) (ray_cosygraph_stage_seconds_count{application="fast"})')
    assert {one["metric"]["stage"] for one in stages} == set(STAGES)
    assert prometheus.ask('ray_cosygraph_request_seconds_bucket{le=~"10|10.0"}')


def test_labels_have_closed_lists_of_values(load, prometheus):
    closed = {
        "route": ROUTES | {"none"},
        "dialect": {dialect.tag for dialect in DIALECTS} | {"none"},
        "mode": {*MODES, "none"},
        "error_type": ERROR_TYPES | {"none"},
        "stage": {*STAGES, "ADMISSION", "PROXY"},
        "destination": {"zipkin", "file", "otlp", "none"},
        "outcome": {"ok", "refused", "failed", "cancelled", "lost", "done", "kept_steered", "interrupted"},
        "fate": {"kept", "dropped"},
        "result": {"hit", "stored", "miss"},
        "answer": {"whole", "stream"},
        "continuous": {"true", "false"},
    }
    for series in prometheus.ask('{__name__=~"ray_cosygraph_.*"}'):
        for label, values in closed.items():
            assert series["metric"].get(label, next(iter(values))) in values, series["metric"]


def test_every_panel_has_data_but_for_the_gpus(load, prometheus):
    for board, panel, query in queries():
        query = query.replace("$application", ".*").replace("$node", ".*").replace("$__rate_interval", f"{WINDOW_S}s")
        if panel.device:
            prometheus.ask(query)  # valid, and empty on a machine without a GPU
            continue
        found = prometheus.wait_for(query, 30)
        assert all(one["value"][1] != "NaN" for one in found) or len(found) > 1, (board.title, panel.title, found)


def test_they_listen_on_loopback_alone(stack):
    ours = {process.pid for server in stack.values() for process in family(server.process)}
    listening = [
        connection
        for connection in psutil.net_connections("inet")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    ]
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"} and len(listening) == 3
    assert not ports.open_to_the_network(ours)


def test_no_secret_is_in_a_log_or_a_file_that_others_can_read(load, stack):
    for server in stack.values():
        told = Path(server.process.log).read_text()
        assert KEY not in told and SECRET not in told
        for process in family(server.process):
            assert KEY not in " ".join(process.cmdline()) and SECRET not in " ".join(process.cmdline())
