"""HTTP to Zipkin: what leaves, which answers mean what, and a storage that fails behind a Zipkin that answers."""

import gzip
import json
import logging
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_tracing_export import real_trace, trace, wait_for

from tracing import Exporter, ExportSettings
from tracing.http_transport import LOOK_EVERY_S, HttpTransport
from tracing.transport import Rejected, Unavailable


class FakeZipkin(ThreadingHTTPServer):
    """Answers POST /api/v2/spans with the statuses it was given, then 202, and keeps what it took."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeZipkinHandler)
        self.statuses: list[int] = []
        self.spans: list[dict] = []
        self.headers: list[dict] = []
        self.health: dict | None = None  #: what /health answers with; None: there is no such page
        self.looks = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class FakeZipkinHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        status = self.server.statuses.pop(0) if self.server.statuses else 202
        if status == 202 and self.path == "/api/v2/spans":
            self.server.spans += json.loads(gzip.decompress(body))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"an answer that echoes canary7secret")

    def do_GET(self) -> None:
        self.server.looks += self.path == "/health"
        self.send_response(404 if self.server.health is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.health).encode())

    def log_message(self, *_) -> None:
        pass


@contextmanager
def fake_zipkin():
    server = FakeZipkin()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_over_http_gzipped_and_whole(tmp_path):
    with fake_zipkin() as zipkin:
        exporter = Exporter(ExportSettings(zipkin_url=zipkin.url + "/", spool_dir=tmp_path))
        traces = [real_trace() for _ in range(5)]
        for spans in traces:
            exporter.submit(spans)
        exporter.close(5)
        assert zipkin.spans == [span for spans in traces for span in spans]
        assert {h["Content-Encoding"] for h in zipkin.headers} == {"gzip"}
        assert {h["Content-Type"] for h in zipkin.headers} == {"application/json"}


def test_over_http_errors_are_retried_and_their_bodies_not_logged(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "tracing")
    with fake_zipkin() as zipkin:
        zipkin.statuses = [500, 503, 429, 404, 302]
        exporter = Exporter(ExportSettings(zipkin_url=zipkin.url, spool_dir=tmp_path, linger_s=0, retry_first_s=0.01,
                                           retry_most_s=0.02))
        exporter.submit(real_trace())
        wait_for(lambda: len(zipkin.spans) == 2)
        exporter.close(5)
        assert exporter.counters()["retries"] == 5
    assert "HTTP 500" in caplog.text and "canary7secret" not in caplog.text


@pytest.mark.parametrize("status", [400, 413])
def test_over_http_a_refusal_is_a_refusal(status):
    with fake_zipkin() as zipkin:
        zipkin.statuses = [status]
        transport = HttpTransport(zipkin.url, 2.0)
        with pytest.raises(Rejected, match=str(status)):
            transport.send([trace(1)])
        transport.close()


def test_over_http_nobody_there_is_unavailable_and_not_an_answer():
    transport = HttpTransport("http://127.0.0.1:1", 2.0)
    with pytest.raises(Unavailable) as caught:
        transport.send([trace(1)])
    assert not caught.value.answered
    transport.close()


def test_a_zipkin_that_comes_back_gets_everything(tmp_path):
    exporter = Exporter(ExportSettings(zipkin_url="http://127.0.0.1:1", spool_dir=tmp_path, linger_s=0,
                                       retry_first_s=0.01, retry_most_s=0.02))
    traces = [real_trace() for _ in range(30)]
    for spans in traces:
        exporter.submit(spans)
    wait_for(lambda: exporter.counters()["retries"] > 2)
    with fake_zipkin() as zipkin:
        exporter._transport._url = f"{zipkin.url}/api/v2/spans"
        wait_for(lambda: len(zipkin.spans) == 60)
        exporter.close(5)
        assert zipkin.spans == [span for spans in traces for span in spans]


def health(storage: str = "UP", collector: str = "UP") -> dict:
    """Zipkin's, as its 3.6 answers with MySQL and Kafka: a part's name may hold its address."""
    whole = "UP" if storage == collector == "UP" else "DOWN"
    return {"status": whole, "zipkin": {"status": whole, "details": {
        "MySQLStorage{datasource=…}": {"status": storage}, "KafkaCollector{…}": {"status": collector},
        "Throttled{MySQLStorage}": {"status": storage}}}}


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def zipkin():
    with fake_zipkin() as server:
        server.health = health()
        yield server


def ids(zipkin: FakeZipkin) -> list[int]:
    return [int(span["traceId"], 16) for span in zipkin.spans]


def test_what_a_zipkin_took_while_its_storage_was_down_goes_out_again(zipkin):
    clock = Clock()
    transport = HttpTransport(zipkin.url, 2.0, clock)
    transport.send([trace(1)])
    clock.s += LOOK_EVERY_S
    transport.send([trace(2)])  # the look after it is good: 1 is stored; 2 waits for the next one
    assert zipkin.looks == 1
    zipkin.health = health(storage="DOWN")
    transport.send([trace(3)])
    clock.s += LOOK_EVERY_S
    for _ in range(3):
        with pytest.raises(Unavailable, match="storage is down") as caught:
            transport.send([trace(4)])
        assert not caught.value.answered, "or it would be taken for the trace's own fault"
    assert ids(zipkin) == [1, 2, 3, 4], "while it is down nothing more is given to it"
    zipkin.health = health()
    zipkin.spans.clear()
    transport.send([trace(4)])
    assert ids(zipkin) == [2, 3, 4]
    assert transport.close() == []


def test_what_could_not_be_stored_is_handed_back_at_the_end(zipkin, tmp_path):
    def settings(url: str) -> ExportSettings:
        return ExportSettings(zipkin_url=url, spool_dir=tmp_path, linger_s=0)
    zipkin.health = health(storage="DOWN")
    first = Exporter(settings(zipkin.url))
    spans = real_trace()
    first.submit(spans)
    wait_for(lambda: first.counters()["sent"] == 1)
    first.close(5)
    assert first.counters()["returned"] == 1
    zipkin.health = health()
    zipkin.spans.clear()
    second = Exporter(settings(zipkin.url))
    wait_for(lambda: zipkin.spans == spans)
    second.close(5)
    assert second.counters()["adopted"] == 1 and not list(tmp_path.glob("*.spool"))


def test_much_at_once_is_looked_after_sooner(zipkin, monkeypatch):
    monkeypatch.setattr("tracing.http_transport.HELD_BYTES", 3 * len(trace(1)))
    transport = HttpTransport(zipkin.url, 2.0, Clock())
    for number in range(9):
        transport.send([trace(number)])
    assert zipkin.looks == 2 and ids(zipkin) == list(range(9))
    transport.close()


@pytest.mark.parametrize("page", [None, [], {"status": "DOWN"}, {"zipkin": {"details": {"MySQLStorage": "DOWN"}}},
                                  health(collector="DOWN")])
def test_a_receiver_without_such_a_page_or_with_another_part_down_is_taken_at_its_word(zipkin, page):
    zipkin.health = page
    clock = Clock()
    transport = HttpTransport(zipkin.url, 2.0, clock)
    for number in range(3):
        transport.send([trace(number)])
        clock.s += LOOK_EVERY_S
    assert transport.close() == [] and ids(zipkin) == [0, 1, 2] and zipkin.looks >= 2
