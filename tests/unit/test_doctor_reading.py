"""The doctor's three sources. Servers here are stand-ins that answer as Zipkin, Prometheus and Serve do; the real ones
are asked in test_doctor_served.py."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from cluster.cli_error import CliError
from cluster.doctor.prometheus_reader import PrometheusReader, PrometheusUnavailable
from cluster.doctor.serve_reader import ServeReader
from cluster.doctor.window import Window, seconds
from cluster.doctor.zipkin_reader import ZipkinReader
from tests.helpers.doctoring import BEGIN, LENGTH, many, spans
from tracing import vocabulary

WINDOW = Window(BEGIN, BEGIN + LENGTH)


class StandInZipkin:
    """Answers searches as Zipkin's memory does: newest first, by the latest span of the asked service, `limit` of
    them."""

    def __init__(self, traces: list[list[dict]]) -> None:
        self.traces = traces
        self.asked: list[dict] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = dict(request.url.params)
        self.asked.append(asked)
        end, begin = int(asked["endTs"]) * 1000, (int(asked["endTs"]) - int(asked["lookback"])) * 1000
        found = []
        for trace in self.traces:
            own = [
                span["timestamp"]
                for span in trace
                if begin <= span["timestamp"] <= end and span["localEndpoint"]["serviceName"] == asked["serviceName"]
            ]
            if own:
                found.append((max(own), trace))
        found.sort(key=lambda one: -one[0])
        return httpx.Response(200, json=[trace for _, trace in found[: int(asked["limit"])]])


def read(traces: list[list[dict]], **more):
    server = StandInZipkin(traces)
    return ZipkinReader("http://zipkin/zipkin/", httpx.MockTransport(server), **more).read(WINDOW), server


class TestZipkin:
    def test_pages_backwards_until_all_are_read_each_once(self):
        found, server = read(many(95), page=10)
        assert len(found.traces) == 95 == len({trace.id for trace in found.traces})
        assert found.cut_at is None and found.skipped == 0 and found.pages == len(server.asked)

    def test_a_trace_whose_last_call_failed_later_is_not_lost_between_pages(self):
        """Zipkin sorts by the ingress's latest span: a CLIENT span, where there is one."""
        traces = [spans(at=100 + n, lost=vocabulary.VOCODE_WAV if n % 3 == 0 else None) for n in range(40)]
        found, _ = read(traces, page=5)
        assert len(found.traces) == 40

    def test_the_bound_is_kept_and_said(self):
        found, _ = read(many(100), page=10, most=30)
        assert 30 <= len(found.traces) <= 40 and found.counts()["cut_at"] == found.cut_at > BEGIN

    def test_more_in_one_moment_than_a_page_holds_goes_on_and_is_said(self):
        crowd = [spans(at=50.0) for _ in range(12)]
        found, _ = read([*crowd, *(spans(at=10.0) for _ in range(3))], page=5)
        assert found.skipped == 1 and sum(trace.root.start_ms < (BEGIN + 20) * 1000 for trace in found.traces) == 3

    def test_what_began_before_is_left_out(self):
        found, _ = read([spans(at=-0.05, lost=vocabulary.VOCODE_WAV), spans(at=5)], page=10)
        assert len(found.traces) == 1

    def test_several_requests_below_one_span_of_their_callers_count_each(self):
        one, two = spans(), spans(at=20, status=400, error="input_validation", failing=vocabulary.PREPROCESS_AUDIO)
        caller = {
            "traceId": one[0]["traceId"],
            "id": "f" * 16,
            "kind": "CLIENT",
            "name": "talk",
            "duration": 1,
            "timestamp": one[0]["timestamp"],
            "localEndpoint": {"serviceName": "shop"},
            "tags": {"error": "x"},
        }
        for span in two:
            span["traceId"] = one[0]["traceId"]
        one[0]["parentId"] = two[0]["parentId"] = caller["id"]
        found, _ = read([[caller, *two, *one]])
        assert [trace.ok for trace in found.traces] == [False, True]
        assert [len(trace.spans) for trace in found.traces] == [2, 5]

    def test_a_loop_of_parents_ends(self):
        one, two = spans(), spans(at=20)
        two = [span | {"traceId": one[0]["traceId"]} for span in two]
        one[1]["parentId"], one[2]["parentId"] = one[2]["id"], one[1]["id"]
        found, _ = read([[*one, *two]])
        assert len(found.traces) == 2 and sum(len(trace.spans) for trace in found.traces) == 10

    def test_stages_without_a_request_are_orphans(self):
        found, _ = read([*many(3), [span for span in spans() if span["name"] == "generate_mel"]])
        assert len(found.traces) == 3 and len(found.orphans) == 1 and found.orphans[0].root is None

    @pytest.mark.parametrize(
        "answer, says",
        [
            (httpx.Response(403), "gate"),
            (httpx.Response(404, text="no"), "no Zipkin"),
            (httpx.Response(200, text="<html>"), "no Zipkin"),
            (httpx.Response(200, json=[[{"no": 1}]]), "no Zipkin"),
            (httpx.Response(200, json={"a": 1}), "no Zipkin"),
            (httpx.ConnectError("refused"), "doesn't answer.*Start it"),
            (httpx.Response(500, json={"error": "Timeout"}), "its storage fails.*--since"),
            (httpx.Response(502, text="<html>nginx"), "does not reach it"),
            (httpx.ReadTimeout("slow"), "too slow.*--since"),
        ],
    )
    def test_what_is_no_zipkin_is_said_with_a_remedy(self, answer, says):
        with pytest.raises(CliError, match=says) as caught:
            ZipkinReader("http://zipkin", httpx.MockTransport(_always(answer))).read(WINDOW)
        assert "--zipkin-url" in str(caught.value)


class Gate:
    """As the gate before Zipkin answers: a key or 401, at most 200 traces, now and then "later"."""

    def __init__(self, zipkin: StandInZipkin, later: int = 0) -> None:
        self.zipkin, self.later = zipkin, later
        self.keys: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers.get("authorization"))
        if self.later and len(self.keys) % 2 == 0:
            self.later -= 1
            return httpx.Response(429, headers={"Retry-After": "3"})
        if self.keys[-1] != "Bearer cosygraph_x":
            return httpx.Response(401)
        return self.zipkin(
            httpx.Request("GET", request.url.copy_set_param("limit", str(min(200, int(request.url.params["limit"])))))
        )


class TestGate:
    @staticmethod
    def read(gate, url: str = "https://traces.example", key: str | None = "cosygraph_x", slept=None):
        slept = [] if slept is None else slept
        return ZipkinReader(url, httpx.MockTransport(gate), key=key, sleep=slept.append).read(WINDOW)

    def test_all_is_read_though_a_page_has_fewer_than_were_asked_for(self):
        gate = Gate(StandInZipkin(many(450)))
        assert len(self.read(gate).traces) == 450
        assert gate.keys[0] is None and None not in gate.keys[1:], "the key is shown to who asks for one"

    def test_it_waits_as_long_as_the_gate_says(self):
        slept: list[float] = []
        assert len(self.read(Gate(StandInZipkin(many(30)), later=2), slept=slept).traces) == 30
        assert slept == [3, 3]

    def test_one_that_never_lets_it_through_is_given_up(self):
        with pytest.raises(CliError, match="429.*--since"):
            self.read(lambda request: httpx.Response(429))

    def test_a_plain_zipkin_never_sees_the_key(self):
        gate = Gate(StandInZipkin(many(3)))
        self.read(lambda request: gate.keys.append(request.headers.get("authorization")) or gate.zipkin(request))
        assert set(gate.keys) == {None}

    def test_a_key_is_not_sent_where_others_could_read_it(self):
        gate = Gate(StandInZipkin(many(3)))
        with pytest.raises(CliError, match="https"):
            self.read(gate, "http://traces.example")
        assert set(gate.keys) == {None}
        assert len(self.read(gate, "http://127.0.0.1:9412").traces) == 3

    @pytest.mark.parametrize("key", [None, "cosygraph_old"])
    def test_no_key_or_a_wrong_one_is_said_and_never_repeated(self, key):
        with pytest.raises(CliError, match="COSYGRAPH_KEY") as caught:
            self.read(Gate(StandInZipkin(many(3))), key=key)
        assert "cosygraph_old" not in str(caught.value)

    def test_a_key_that_sees_no_tags_is_not_taken_for_a_silent_graph(self):
        bare = [[span | {"tags": {}} for span in trace] for trace in many(3)]
        with pytest.raises(CliError, match="view-traces"):
            self.read(Gate(StandInZipkin(bare)))


def _always(answer: httpx.Response | Exception) -> Callable[[httpx.Request], httpx.Response]:
    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return respond


class TestPrometheus:
    @staticmethod
    def ask(answers: Callable[[str], list[tuple[dict, str]]]):
        def respond(request: httpx.Request) -> httpx.Response:
            result = [{"metric": labels, "value": [0, value]} for labels, value in answers(request.url.params["query"])]
            return httpx.Response(200, json={"status": "success", "data": {"result": result}})

        return PrometheusReader("http://prometheus", httpx.MockTransport(respond)).read(WINDOW)

    def test_counts_by_outcome(self):
        def answers(query: str):
            if "max(up" in query:
                return [({}, "1")]
            if "by (outcome)" in query:
                return [({"outcome": "ok"}, "90"), ({"outcome": "refused"}, "10")]
            return [({"deployment": "tts-service"}, "2")] if "replica_healthy" in query else []

        counts = self.ask(answers)
        assert counts.requests == 100 and counts.replicas == {"tts-service": 2}

    def test_one_that_began_later_is_not_believed(self):
        with pytest.raises(PrometheusUnavailable, match="does not reach back"):
            self.ask(lambda query: [({}, "1")] if "max(up" in query and "offset" not in query else [])

    def test_how_far_it_does_reach_is_said(self):
        def answers(query: str):
            if query.startswith("time()"):
                return [({}, "1199")]
            return [({}, "1")] if "max(up" in query and "offset" not in query else []

        with pytest.raises(PrometheusUnavailable, match="--since 19m would be counted"):
            self.ask(answers)

    def test_one_that_knows_no_ray_is_not_believed(self):
        with pytest.raises(PrometheusUnavailable, match="no series of Ray"):
            self.ask(lambda query: [])

    def test_what_is_no_number_is_left_out(self):
        counts = self.ask(lambda query: [({"stage": "ADMISSION", "job": "ray"}, "1" if "up{" in query else "NaN")])
        assert counts.queue_p95_s == {} and counts.waiting == 0

    @pytest.mark.parametrize(
        "answer, says",
        [
            (httpx.Response(200, text="<html>"), "no Prometheus"),
            (httpx.ConnectError("refused"), "doesn't answer"),
            (httpx.Response(400, json={"status": "error", "error": "bad"}), "does not answer"),
        ],
    )
    def test_a_silent_one_says_why(self, answer, says):
        with pytest.raises(PrometheusUnavailable, match=says):
            PrometheusReader("http://prometheus", httpx.MockTransport(_always(answer))).read(WINDOW)


class TestServe:
    @pytest.mark.parametrize(
        "answer, says",
        [
            (httpx.Response(500), "answers 500"),
            (httpx.Response(200, text="<html>"), "doesn't answer"),
            (httpx.ConnectError("refused"), "doesn't answer"),
        ],
    )
    def test_what_is_no_dashboard_is_said_with_a_remedy(self, answer, says):
        with pytest.raises(CliError, match=says) as caught:
            ServeReader("http://dashboard", httpx.MockTransport(_always(answer))).details()
        assert "--dashboard-url" in str(caught.value)

    def test_settings_and_replicas_of_the_application_with_the_ingress(self):
        config = {"user_config": {"max_batch_size": 1}, "autoscaling_config": {"max_replicas": 3}}
        replicas = [{"replica_id": "a", "pid": 7, "state": "RUNNING"}, {"replica_id": "b", "state": "STARTING"}]
        details = {
            "applications": {
                "other": {"deployments": {"x": {}}},
                "cosygraph": {
                    "deployments": {
                        vocabulary.INGRESS: {"deployment_config": {"num_replicas": 1}},
                        "tts-service": {"deployment_config": config, "replicas": replicas},
                    }
                },
            }
        }
        answer = httpx.Response(200, content=json.dumps(details))
        found = ServeReader("http://dashboard", httpx.MockTransport(_always(answer))).deployments()
        assert found["tts-service"].replicas == (("a", 7),) and found["tts-service"].max_batch_size == 1
        assert found["tts-service"].most_replicas == 3 and found[vocabulary.INGRESS].most_replicas == 1


class TestWindow:
    @pytest.mark.parametrize("text, length", [("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172_800), ("1.5h", 5400)])
    def test_lengths(self, text, length):
        assert seconds(text) == length

    @pytest.mark.parametrize("text", ["", "1", "h", "-1h", "0s", "1 week", "nan", "1h30m"])
    def test_no_lengths(self, text):
        with pytest.raises(ValueError, match="15m"):
            seconds(text)

    def test_a_link_searches_the_same_time(self):
        link = Window(1000, 1060, "http://z").link("error and a=b")
        assert "endTs=1060000" in link and "millis=60000" in link and "annotationQuery=error+and+a%3Db" in link
        assert Window(1000, 1060).link() is None
