"""OTLP/HTTP against a receiver made of OTLP's published protobufs: answers, retries, two destinations at once."""

import json
import ssl
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from pydantic import ValidationError

from bench.measuring.traces import request
from tests.helpers.export import Clock, Receiver, sender, settle, wait_for
from tests.helpers.fake_zipkin import fake_zipkin
from tests.helpers.otlp_receiver import as_zipkin, otlp_receiver, spans_of
from tests.helpers.serving_thread import serving
from tracing import Exporter, ExportSettings
from tracing.export_settings import OtlpDestination
from tracing.http_post import retry_after_s
from tracing.otlp_transport import OtlpTransport
from tracing.sender import Queue
from tracing.transport import Rejected, Unavailable


@pytest.fixture
def receiver():
    with otlp_receiver() as server:
        yield server


_made: list[OtlpTransport] = []


@pytest.fixture(autouse=True)
def connections_are_closed():
    yield
    while _made:
        _made.pop().close()


def transport(receiver, **more) -> OtlpTransport:
    return to(receiver.url, **more)


def to(url: str, **more) -> OtlpTransport:
    _made.append(OtlpTransport(OtlpDestination(url=url, **more), timeout_s=5))
    return _made[-1]


def lines(*numbers: int) -> list[bytes]:
    return [json.dumps(request(number)).encode() for number in numbers]


def ids(spans: list[dict]) -> list[tuple[str, str]]:
    return sorted((span["traceId"], span["id"]) for span in spans)


def settings(receiver, tmp_path, **more) -> ExportSettings:
    quick = {"linger_s": 0, "retry_first_s": 0.01, "retry_most_s": 0.02, "adopt_every_s": 0.05}
    return ExportSettings(otlp={"url": receiver.url}, spool_dir=tmp_path, **quick | more)


class TestOnePost:
    def test_it_is_gzipped_protobuf_at_v1_traces_with_the_headers_of_the_settings(self, receiver):
        assert transport(receiver, headers={"X-Scope-OrgID": "speech"}).send(lines(1, 2)) == 0
        [headers] = receiver.headers
        assert headers["Content-Encoding"] == "gzip" and headers["Content-Type"] == "application/x-protobuf"
        assert headers["X-Scope-OrgID"] == "speech"
        assert len(receiver.spans) == len(request(1)) + len(request(2))

    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_a_refusal_is_for_good(self, receiver, status):
        receiver.answers = [(status, {})]
        with pytest.raises(Rejected, match=f"HTTP {status}"):
            transport(receiver).send(lines(1))

    @pytest.mark.parametrize(
        "status, answered", [(429, False), (502, True), (503, True), (504, True), (500, True), (401, False)]
    )
    def test_other_errors_leave_the_batch_to_wait(self, receiver, status, answered):
        receiver.answers = [(status, {})]
        with pytest.raises(Unavailable) as caught:
            transport(receiver).send(lines(1))
        assert caught.value.answered is answered and caught.value.retry_after_s == 0

    def test_the_pause_that_a_receiver_asks_for_is_told(self, receiver):
        receiver.answers = [(429, {"Retry-After": "7"})]
        with pytest.raises(Unavailable) as caught:
            transport(receiver).send(lines(1))
        assert caught.value.retry_after_s == 7

    def test_a_partial_success_is_the_number_of_refused_spans(self, receiver):
        trace = request(1)
        receiver.refuse = {bytes.fromhex(span["id"]) for span in trace[:2]}
        assert transport(receiver).send([json.dumps(trace).encode()]) == 2
        assert len(receiver.spans) == len(trace) - 2

    @pytest.mark.parametrize(
        "kind, body, refused",
        [
            ("application/json", b"{}", 0),
            ("application/json", b'{"partialSuccess": {"rejectedSpans": "3"}}', 3),
            ("text/plain", b"", 0),
        ],
    )
    def test_receivers_that_answer_otherwise_are_understood(self, receiver, kind, body, refused):
        receiver.body = kind, body
        assert transport(receiver).send(lines(1)) == refused

    @pytest.mark.parametrize("kind, body", [("text/html", b"<!doctype html><p>hello"), ("application/json", b"[]")])
    def test_a_page_of_another_server_is_no_success(self, receiver, kind, body):
        """Jaeger's and Grafana's pages answer 200 to anything: the traces would be gone."""
        receiver.body = kind, body
        with pytest.raises(Unavailable, match=f"not OTLP .{kind}.; is otlp.url right"):
            transport(receiver).send(lines(1))

    def test_a_check_sends_no_span(self, receiver):
        transport(receiver).check()
        assert len(receiver.requests) == 1 and receiver.spans == []
        receiver.answers = [(401, {})]
        with pytest.raises(Unavailable, match="wants credentials: see otlp.headers_file"):
            transport(receiver).check()

    def test_the_answers_text_is_never_logged_or_raised(self, receiver, caplog):
        receiver.body = "text/plain", b"canary7secret"
        for status in (400, 503):
            receiver.answers = [(status, {})]
            with pytest.raises((Rejected, Unavailable)) as caught:
                transport(receiver).send(lines(1))
            assert "canary7secret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    "header, seconds",
    [
        (None, 0),
        ("120", 120),
        (" 5 ", 5),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0),
        ("soon", 0),
        ("-3", 0),
        ("", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after_s(header, now=784111770.0) == seconds


class TestSending:
    def test_a_pause_that_was_asked_for_is_kept_but_not_for_a_day(self):
        queue, receiver, clock = Queue(10), Receiver(), Clock()
        queue.append(b"[]")
        sending, counters = sender(queue, receiver, clock, retry_first_s=1)
        receiver.trouble = Unavailable("HTTP 429", retry_after_s=40)
        assert sending.step() == 40
        assert sending.step() == 40, "within the pause nothing is tried"
        assert receiver.batches == [1]
        clock.now += 40
        receiver.trouble = Unavailable("HTTP 429", retry_after_s=86_400)
        assert sending.step() == 300
        clock.now += 300
        receiver.trouble = Unavailable("HTTP 429", retry_after_s=0.1)
        assert sending.step() == 4, "no less than our own"
        clock.now += 4
        receiver.trouble = None
        settle(sending.step, clock)
        assert counters.read()["sent"] == 1

    def test_throttling_and_outages_lose_nothing(self, receiver, tmp_path):
        receiver.answers = [(429, {"Retry-After": "0"}), (503, {}), (502, {}), (504, {})]
        exporter = Exporter(settings(receiver, tmp_path))
        traces = [request(number) for number in range(1, 6)]
        for trace in traces:
            exporter.submit(trace)
        wait_for(lambda: exporter.counters()["sent"] == 5)
        exporter.close()
        assert exporter.counters()["retries"] >= 3 and exporter.counters()["dropped"] == 0
        assert ids(as_zipkin(receiver.spans)) == ids([span for trace in traces for span in trace])

    def test_a_refused_request_is_not_sent_again_only_its_halves(self, receiver, tmp_path):
        """400: the same request never comes twice; one bad span costs no other."""
        traces = [request(number) for number in range(1, 5)]
        receiver.poison = {bytes.fromhex(traces[2][1]["id"])}
        exporter = Exporter(settings(receiver, tmp_path, linger_s=0.3))
        for trace in traces:
            exporter.submit(trace)
        wait_for(lambda: exporter.counters()["waiting"] == 0)
        exporter.close()
        bodies = [message.SerializeToString(deterministic=True) for message in receiver.requests]
        assert len(bodies) == len(set(bodies))
        lost = (traces[2][1]["traceId"], traces[2][1]["id"])
        kept = [pair for trace in traces for pair in ids(trace) if pair != lost]
        assert ids(as_zipkin(receiver.spans)) == sorted(kept)
        assert exporter.counters()["dropped_spans_rejected"] == 1 and exporter.counters()["retries"] == 0

    def test_a_partial_success_is_counted_and_nothing_goes_again(self, receiver, tmp_path, caplog):
        traces = [request(number) for number in (1, 2)]
        receiver.refuse = {bytes.fromhex(span["id"]) for trace in traces for span in trace[:2]}
        exporter = Exporter(settings(receiver, tmp_path))
        for trace in traces:
            exporter.submit(trace)
        wait_for(lambda: exporter.counters()["sent"] == 2)
        exporter.close()
        counts = exporter.counters()
        assert counts["dropped_spans_rejected"] == 4 and counts["retries"] == 0 == counts["failed_batches"]
        sent = [span.span_id for message in receiver.requests for _, span in spans_of(message)]
        assert len(sent) == len(set(sent)), "nothing twice"
        assert len([r for r in caplog.records if "refused" in r.getMessage()]) == 1, "once a minute"
        assert "canary7secret" not in caplog.text


class TestTwoDestinations:
    def test_both_get_the_same_traces_span_by_span(self, receiver, tmp_path):
        with fake_zipkin() as zipkin:
            exporter = Exporter(settings(receiver, tmp_path, zipkin_url=zipkin.url))
            traces = [request(number) for number in range(1, 31)]
            for trace in traces:
                trace[0]["tags"]["request.text"] = "canary7secret"
                exporter.submit(trace)
            wait_for(lambda: exporter.counters()["waiting"] == 0)
            exporter.close()
        assert exporter.destinations()["zipkin"]["sent"] == exporter.destinations()["otlp"]["sent"] == 30
        assert exporter.counters()["submitted"] == 30 and exporter.counters()["sent"] == 60
        assert exporter.counters()["redacted"] == 30, "redaction comes once, before the ways part"
        assert as_zipkin(receiver.spans) == sorted(zipkin.spans, key=lambda span: span["id"])
        assert len(zipkin.spans) == sum(map(len, traces))
        assert b"canary7secret" not in b"".join(message.SerializeToString() for message in receiver.requests)

    @pytest.mark.parametrize("down", ["zipkin", "otlp"])
    def test_one_that_is_down_neither_holds_up_nor_loses_the_others(self, receiver, tmp_path, down):
        with fake_zipkin() as zipkin:
            broken = {"zipkin": zipkin, "otlp": receiver}[down]
            broken.down = True
            exporter = Exporter(settings(receiver, tmp_path, zipkin_url=zipkin.url))
            traces = [request(number) for number in range(1, 11)]
            for trace in traces:
                exporter.submit(trace)
            other = {"zipkin": "otlp", "otlp": "zipkin"}[down]
            wait_for(lambda: exporter.destinations()[other]["sent"] == 10)
            counts = exporter.destinations()
            assert counts[down]["waiting"] == 10 and counts[down]["sent"] == 0 and counts[other]["waiting"] == 0
            broken.down = False
            wait_for(lambda: exporter.counters()["waiting"] == 0)
            exporter.close()
        assert exporter.counters()["dropped"] == 0
        expected = ids([span for trace in traces for span in trace])
        assert ids(zipkin.spans) == ids(as_zipkin(receiver.spans)) == expected

    def test_what_waits_for_each_is_adopted_for_it_by_the_next_process(self, receiver, tmp_path):
        with fake_zipkin() as zipkin:
            zipkin.down = receiver.down = True
            first = Exporter(settings(receiver, tmp_path, zipkin_url=zipkin.url))
            traces = [request(number) for number in range(1, 4)]
            for trace in traces:
                first.submit(trace)
            wait_for(lambda: first.counters()["retries"] >= 2)
            first.close(5)
            zipkin.down = receiver.down = False
            second = Exporter(settings(receiver, tmp_path, zipkin_url=zipkin.url))
            wait_for(lambda: second.counters()["sent"] == 6)
            second.close()
        assert second.destinations()["otlp"]["adopted"] == second.destinations()["zipkin"]["adopted"] == 3
        assert ids(as_zipkin(receiver.spans)) == ids(zipkin.spans) == ids([s for trace in traces for s in trace])
        assert not list(tmp_path.rglob("*.spool"))

    def test_a_killed_process_loses_nothing_of_either(self, receiver, tmp_path):
        program = (
            "import os, sys; from pathlib import Path; from bench.measuring.traces import request\n"
            "from tracing import Exporter, ExportSettings\n"
            "exporter = Exporter(ExportSettings(zipkin_url='http://127.0.0.1:1', otlp={'url': 'http://127.0.0.1:1'},"
            " spool_dir=Path(sys.argv[1])))\n"
            "for number in range(1, 21): exporter.submit(request(number))\n"
            "os.kill(os.getpid(), 9)"
        )
        assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -9
        with fake_zipkin() as zipkin:
            heir = Exporter(settings(receiver, tmp_path, zipkin_url=zipkin.url))
            wait_for(lambda: heir.counters()["sent"] == 40)
            heir.close()
        assert heir.counters()["adopted"] == 40
        assert as_zipkin(receiver.spans) == sorted(zipkin.spans, key=lambda span: span["id"])
        assert len({span["traceId"] for span in zipkin.spans}) == 20

    def test_a_full_spool_of_one_costs_the_other_nothing(self, receiver, tmp_path):
        with fake_zipkin() as zipkin:
            receiver.down = True
            exporter = Exporter(
                settings(receiver, tmp_path, zipkin_url=zipkin.url, spool_limit_bytes=2**20, retry_most_s=60)
            )
            trace = request(1)
            for number in range(1, 601):  # 2 kB each
                exporter.submit(trace)
                if number % 100 == 0:
                    wait_for(lambda: exporter.destinations()["zipkin"]["waiting"] == 0)
            counts = exporter.destinations()
            assert counts["otlp"]["dropped_spool_full"] > 0 and counts["zipkin"]["sent"] == 600
            assert "dropped_spool_full" not in counts["zipkin"]
            exporter.close(0)

    def test_traces_for_a_place_that_is_no_longer_named_are_said(self, receiver, tmp_path, caplog):
        receiver.down = True
        first = Exporter(settings(receiver, tmp_path))
        first.submit(request(1))
        first.close(0)
        with fake_zipkin() as zipkin:
            Exporter(ExportSettings(zipkin_url=zipkin.url, spool_dir=tmp_path)).close()
            assert zipkin.spans == [], "Zipkin gets none of the other's"
        assert "traces for otlp wait in" in caplog.text and "name it again until they are sent" in caplog.text

    def test_zipkins_own_way_in_for_otlp_is_a_way_to_zipkin(self, receiver, tmp_path):
        exporter = Exporter(ExportSettings(zipkin_url=receiver.url, protocol="otlp", spool_dir=tmp_path, linger_s=0))
        exporter.submit(request(1))
        wait_for(lambda: exporter.counters()["sent"] == 1)
        exporter.close()
        assert list(exporter.destinations()) == ["zipkin"] and len(receiver.spans) == len(request(1))


class TestHeadersFile:
    def test_its_headers_are_sent_and_read_again_when_it_changes(self, receiver, tmp_path):
        path = tmp_path / "headers"
        path.write_text("# of the collector\n\nAuthorization: Bearer one\nX-Tenant:  speech \n")
        way_out = transport(receiver, headers={"X-Scope-OrgID": "a"}, headers_file=path)
        way_out.send(lines(1))
        path.write_text("Authorization: Bearer number-two\n")
        way_out.send(lines(1))
        assert [headers["Authorization"] for headers in receiver.headers] == ["Bearer one", "Bearer number-two"]
        assert receiver.headers[0]["X-Tenant"] == "speech" and "X-Tenant" not in receiver.headers[1]
        assert {headers["X-Scope-OrgID"] for headers in receiver.headers} == {"a"}

    def test_a_missing_one_stops_the_start_with_a_remedy(self, receiver, tmp_path):
        with pytest.raises(
            ValueError, match=r"headers_file .*can't be read \(No such file.*make it, with a line such as"
        ):
            Exporter(ExportSettings(otlp={"url": receiver.url, "headers_file": tmp_path / "none"}))

    @pytest.mark.parametrize("line", ["canary7secret", "Authorization canary7secret", "A: canary7secret\u4f60"])
    def test_a_line_that_is_none_is_named_by_its_number_and_not_quoted(self, receiver, tmp_path, line):
        path = tmp_path / "headers"
        path.write_text(f"A: b\n{line}\n")
        with pytest.raises(ValueError, match="line 2: no header. Write `Name: value`") as caught:
            transport(receiver, headers_file=path)
        assert "canary7secret" not in str(caught.value)

    def test_one_that_goes_while_it_runs_makes_traces_wait(self, receiver, tmp_path):
        path = tmp_path / "headers"
        path.write_text("A: b\n")
        way_out = transport(receiver, headers_file=path)
        path.unlink()
        with pytest.raises(Unavailable, match="headers_file"):
            way_out.send(lines(1))


class TestHints:
    @pytest.mark.parametrize(
        "status, says", [(401, "wants credentials"), (403, "these credentials"), (404, "/v1/traces is added")]
    )
    def test_a_wrong_setting_is_named(self, receiver, status, says, tmp_path, caplog):
        receiver.answers = [(status, {})] * 3
        exporter = Exporter(settings(receiver, tmp_path))
        exporter.submit(request(1))
        wait_for(lambda: exporter.counters()["sent"] == 1)
        exporter.close()
        assert says in caplog.text

    def test_the_port_of_grpc_is_named(self, monkeypatch):
        way_out = to("http://127.0.0.1:4317")

        def fail(*_, **__):
            raise httpx.RemoteProtocolError("gRPC speaks HTTP/2")

        monkeypatch.setattr(httpx.Client, "post", fail)
        with pytest.raises(Unavailable, match="OTLP/HTTP is usually at 4318"):
            way_out.send(lines(1))


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path):
        folder = tmp_path
        made = subprocess.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
            f" -keyout {folder}/key.pem -out {folder}/cert.pem".split(),
            capture_output=True,
        )
        assert made.returncode == 0, made.stderr
        return folder

    @pytest.fixture
    def secure(self, certificate):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_) -> None:
                pass

        class Server(HTTPServer):
            def handle_error(self, request, client_address) -> None:
                pass  # a client that does not trust us goes away

        server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield f"https://localhost:{server.server_port}"

    def test_a_private_authority_is_trusted_by_its_file_only(self, secure, certificate):
        assert to(secure, ca_file=certificate / "cert.pem").send(lines(1)) == 0
        with pytest.raises(Unavailable, match="ConnectError"):
            to(secure).send(lines(1))

    @pytest.mark.parametrize(
        "text, says", [(None, r"can't be read \(No such file"), ("no certificate", "holds no certificate in PEM form")]
    )
    def test_a_file_that_is_none_is_said(self, tmp_path, text, says):
        path = tmp_path / "ca.pem"
        if text is not None:
            path.write_text(text)
        with pytest.raises(ValueError, match=f"ca_file .*{says}"):
            to("https://localhost", ca_file=path)


@pytest.mark.parametrize("damaged", [b"\0" * 40, b'[{"traceId":"', b"[1]", b'[{"id":"0000000000000001"}]'])
def test_a_damaged_line_costs_no_other_trace(receiver, damaged):
    """A machine that lost power may leave such lines in a spool."""
    queue, clock = Queue(100), Clock()
    for line in (*lines(1, 2), damaged, *lines(3)):
        queue.append(line)
    sending, counters = sender(queue, transport(receiver), clock)
    settle(sending.step, clock)
    assert len({span.trace_id for _, span in receiver.spans}) == 3
    assert counters.read()["dropped_spans_rejected"] == 1 and len(queue) == 0


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"url": "127.0.0.1:4318"}, "must begin with http:// or https://, for example"),
        ({"url": "grpc://collector:4317"}, "must begin with http:// or https://"),
        ({"url": "http://"}, "must begin with http:// or https://"),
        ({"url": "http://collector:4318/v1/traces"}, "without /v1/traces"),
        ({"url": "https://me:canary7secret@collector"}, "put an Authorization line into headers_file"),
        ({"url": "https://collector/?key=canary7secret"}, "put keys into headers_file"),
        ({"url": "http://c", "headers": {"Authorization": "canary7secret"}}, "name it with headers_file"),
        ({"url": "http://c", "headers": {"x-api-key": "canary7secret"}}, "name it with headers_file"),
        ({"url": "http://c", "headers": {"x y": "1"}}, "is no name of an HTTP header"),
        ({"url": "http://c", "headers": {"A": "b\r\nC: d"}}, "should match pattern"),
        ({"url": "http://c", "resource": {"service.name": "mine"}}, "is told by the spans themselves"),
        ({"uri": "http://c"}, "did you mean 'url'"),
        ({}, "Field required"),
    ],
)
def test_wrong_settings_say_what_is_wrong(wrong, says):
    with pytest.raises(ValidationError) as caught:
        ExportSettings(otlp=wrong)
    assert says in str(caught.value), caught.value
    assert "canary7secret" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"protocol": "otlp"}, "protocol: otlp is about zipkin_url, and there is none"),
        ({"protocol": "otlp", "otlp": {"url": "http://c:4318"}}, "leave protocol out"),
        (
            {"protocol": "otlp", "zipkin_url": "http://c:4318/", "otlp": {"url": "http://c:4318"}},
            "are the same address: give one",
        ),
    ],
)
def test_settings_that_contradict_each_other_say_so(wrong, says):
    with pytest.raises(ValidationError) as caught:
        ExportSettings(**wrong)
    assert says in str(caught.value), caught.value
