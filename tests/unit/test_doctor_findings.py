"""The doctor's findings in traces whose story is known, and its silence if nothing is wrong."""

from __future__ import annotations

import json

import pytest

from cluster.doctor import report
from cluster.doctor.evidence import Evidence
from cluster.doctor.examination import examine
from cluster.doctor.finding import Change
from cluster.doctor.prometheus_reader import Counts
from cluster.doctor.serve_reader import Deployment
from cluster.doctor.traces import Trace
from cluster.doctor.watchdog import watchdog
from tests.helpers.doctoring import ALICE, BEGIN, BOB, LENGTH, acts, evidence, findings, many, narrow, of, spans
from tracing import vocabulary

TTS, VOCODER = vocabulary.GENERATE_MEL, vocabulary.VOCODE_WAV


def deployment(service: str, most: int | None = 2, replicas: int = 1, **user_config) -> dict[str, Deployment]:
    ids = tuple((f"r{number}", number) for number in range(replicas))
    return {service: Deployment(service, "cosygraph", user_config, ids, most)}


class TestStreams:
    @staticmethod
    def some(
        count: int, continuous: bool, tts: dict | None = None, underrun_ms: float = 800, **more
    ) -> list[list[dict]]:
        """Streams of 4 s of audio; those with gaps are all kept."""
        tags = {
            vocabulary.STREAM_CONTINUOUS: "true" if continuous else "false",
            vocabulary.STREAM_UNDERRUN_MS: "0" if continuous else str(underrun_ms),
            vocabulary.STREAM_SECONDS: "4",
        }
        return many(count, weight=10 if continuous else 1, stages={TTS: tts or {}}, **tags, **more)

    def test_without_streams_nothing_is_said(self):
        assert not of("streams", findings(many(60)))

    def test_good_streams_are_fine(self):
        [finding] = of("streams", findings([*self.some(60, True), *self.some(2, False)]))
        assert finding.severity == "fine" and "2 streams of 602" in finding.summary

    @pytest.mark.parametrize(
        "tts, more, cause, service",
        [
            ({vocabulary.BATCH_WAIT_MS: 3000}, {}, "queue", "tts-service"),
            ({vocabulary.COMPUTE_MS: 4500, vocabulary.BATCH_WAIT_MS: 9000}, {}, "slow", "tts-service"),
            ({vocabulary.COMPUTE_MS: 900}, {}, "slow", "tts-service"),
            ({}, {}, "ingress", "cosyvoice3-api"),
            ({vocabulary.BATCH_WAIT_MS: 3000}, {"lost": VOCODER}, "lost", "vocoder-service"),
        ],
    )
    def test_gaps_have_their_likely_cause(self, tts, more, cause, service):
        [finding] = of("streams", findings([*self.some(9, True), *self.some(30, False, tts, **more)]))
        assert finding.severity == "act" and "25 % of the streams" in finding.summary
        assert finding.figures["causes"] == [{"cause": cause, "service": service, "streams": 30}]
        assert service in finding.advice and "stream.continuous%3Dfalse" in finding.traces

    def test_one_of_a_hundred_is_worth_a_look(self):
        wait = {vocabulary.BATCH_WAIT_MS: 3000}
        [finding] = of("streams", findings([*self.some(60, True), *self.some(6, False, wait)]))
        assert finding.severity == "look" and finding.figures["share"] == pytest.approx(0.0099)


class TestHealthy:
    def test_nothing_is_to_be_done_and_every_kind_says_what_it_saw(self):
        found = findings([*many(60), *many(60, dialect="sichuan")])
        assert not acts(found)
        assert {finding.kind for finding in found} == {
            "bottleneck",
            "errors",
            "dialect",
            "fallback",
            "traces",
            "sources",
            "queue",
        }

    def test_a_few_refused_requests_are_no_alarm(self):
        found = findings([*many(100), *many(20, status=400, error="input_validation", code="text_empty")])
        [error] = of("errors", found)
        assert error.severity == "look" and "2 % of all requests" in error.summary

    @pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", ""])
    def test_a_span_of_somebody_elses_with_numbers_that_are_none_ends_nothing(self, value):
        """Anybody who reaches Zipkin may send it spans, also in the names of these services."""
        traces = many(60)
        for trace in traces[::2]:
            for span in trace:
                span["tags"] = dict.fromkeys(span["tags"], value) | {
                    tag: span["tags"][tag] for tag in (vocabulary.HTTP_ROUTE,) if tag in span["tags"]
                }
        found = findings(traces)
        assert json.dumps([finding.as_json() for finding in found], allow_nan=False)

    def test_no_requests_at_all(self):
        [only] = findings([])
        assert only.kind == "sources" and only.severity == "look" and "no request for speech" in only.summary

    def test_probes_and_pages_are_no_requests(self):
        probe = spans(status=503, error="stage_unavailable", **{vocabulary.HTTP_ROUTE: "/ready"})
        assert not of("errors", findings([probe] * 50))

    def test_three_requests_are_not_enough_for_anything(self):
        slow = {TTS: {vocabulary.BATCH_WAIT_MS: 9000, vocabulary.COMPUTE_MS: 100, "ms": 9100}}
        found = findings(many(3, stages=slow, ms=9300))
        assert not acts(found) and "of only 3 traces" in of("bottleneck", found)[0].summary


class TestErrors:
    def test_one_line_names_what_share_and_whose(self):
        [error] = of("errors", findings([*many(85), *narrow(150, user=BOB)]))
        assert error.severity == "act"
        assert error.summary == (
            "100 % of the 400s are 8 kHz audio from user b0b000b0…: 150 requests, 15 % of all requests"
        )
        assert "http.status_code%3D400" in error.traces and error.figures["callers"] == {BOB: 150}

    def test_of_all_400s(self):
        empty = many(13, status=400, error="input_validation", code="text_empty")
        first, second = of("errors", findings([*many(85), *narrow(150, user=BOB), *empty]))
        assert first.summary.startswith("92 % of the 400s are 8 kHz audio from user b0b000b0…")
        assert ALICE[:4] not in first.summary
        assert "input_validation/text_empty" in second.summary and second.severity == "look"

    def test_several_callers_are_not_one(self):
        [error] = of("errors", findings([*many(50), *narrow(60, user=BOB), *narrow(40)]))
        assert "from 2 callers" in error.summary and any("b0b000b0…: 60" in line for line in error.detail)

    def test_only_errors_kept_gives_no_share(self):
        found = findings(narrow(50))
        [error] = of("errors", found)
        assert error.severity == "look" and "share of all requests is not known" in error.summary
        assert error.figures["share_of_all"] is None

    def test_prometheus_knows_the_share_all_the_same(self):
        [error] = of("errors", findings(narrow(50), counts=Counts(outcomes={"ok": 450, "refused": 50})))
        assert error.severity == "act" and "10 % of all requests" in error.summary
        assert error.figures["share_is"] == "Prometheus's count"

    def test_a_count_that_lags_behind_the_traces_is_not_used(self):
        [error] = of("errors", findings([*many(85), *narrow(150)], counts=Counts(outcomes={"refused": 3})))
        assert "15 % of all requests" in error.summary and "weights" in error.figures["share_is"]

    def test_a_count_of_fewer_than_the_weights_stand_for_is_not_used(self):
        """More than the traces, far less than they stand for: Prometheus lags, or knows one ingress of two."""
        [error] = of("errors", findings([*many(85), *narrow(150)], counts=Counts(outcomes={"ok": 300, "refused": 80})))
        assert "15 % of all requests" in error.summary and "weights" in error.figures["share_is"]

    def test_where_zipkin_forgot_the_oldest_failures_are_not_held_against_the_whole_time(self):
        """15 % fail all along, and a fifth of the traces is left."""
        found = findings([*many(85), *narrow(150)], counts=Counts(outcomes={"ok": 4250, "refused": 750}))
        [error] = [one for one in of("errors", found) if one.figures.get("code")]
        assert "15 % of all requests" in error.summary
        assert error.figures["share_is"].endswith("which stand for 1,000 of the 5,000 requests that Prometheus counted")
        [read] = of("sources", found)
        assert read.severity == "look" and any("stand for 1,000 of these" in line for line in read.detail)

    def test_what_chance_explains_is_no_gap(self):
        """85 kept of a tenth are 850, give or take 260."""
        found = findings([*many(85), *narrow(150)], counts=Counts(outcomes={"ok": 1050, "refused": 150}))
        assert of("errors", found)[0].figures["share_is"] == "Prometheus's count"
        assert of("sources", found)[0].severity == "fine"

    def test_where_more_came_than_is_read_the_whole_count_is_no_measure(self):
        seen = evidence([*many(85), *narrow(150)], counts=Counts(outcomes={"ok": 850, "refused": 150}))
        assert seen.all_requests[1] == "Prometheus's count"
        cut = evidence([*many(85), *narrow(150)], counts=seen.counts)
        cut.read.cut_at = BEGIN + 1
        assert cut.all_requests == (1000, "by the kept traces' weights")
        only_failures = evidence(narrow(150), counts=seen.counts)
        only_failures.read.cut_at = BEGIN + 1
        assert only_failures.all_requests[0] is None

    def test_ours_are_acted_on_sooner_and_name_the_stage(self):
        [error] = of("errors", findings([*many(50), *many(10, status=500, error="internal", failing=TTS)]))
        assert error.severity == "act" and "internal at tts-service" in error.summary

    def test_clients_that_left_are_nobodys_fault(self):
        [error] = of("errors", findings([*many(20), *many(40, status=499, error="cancelled")]))
        assert error.severity == "look" and "clients that left" in error.summary

    def test_a_stream_that_broke_off_after_200_is_an_error(self):
        broken = spans(error="stage_unavailable", failing=VOCODER)
        [error] = of("errors", findings([*many(20), *([broken] * 3)]))
        assert error.figures["count"] == 3 and "of the answers that broke off are stage_unavailable" in error.summary
        assert acts(findings([*many(20), *([broken] * 10)]))

    def test_missing_dialects_are_said_in_words(self):
        [error] = of(
            "errors",
            findings(
                [
                    *many(50),
                    *many(90, status=400, error="input_validation", code="dialect_missing", dialect=None, user=BOB),
                ]
            ),
        )
        assert "requests without a dialect from user b0b000b0…" in error.summary and error.severity == "act"

    def test_failures_without_traces_are_told(self):
        found = of("errors", findings(many(50), counts=Counts(outcomes={"ok": 500, "failed": 80})))
        assert any("counted 80 failed requests, and Zipkin has 0" in finding.summary for finding in found)

    def test_a_refusal_told_inside_a_stream_is_one_of_its_statuses(self):
        """Server-sent events begin with 200, and tell the error in an event."""
        events = narrow(5)
        for trace in events:
            trace[0]["tags"][vocabulary.HTTP_STATUS_CODE] = "200"
        [error] = of("errors", findings([*many(20), *events, *narrow(5)]))
        assert error.summary.startswith("100 % of the 400s are 8 kHz audio") and error.figures["count"] == 10
        assert "error.code%3Dsample_rate_too_low" in error.traces and "status_code" not in error.traces

    def test_a_type_and_a_code_of_one_name_are_named_once(self):
        refused = many(30, status=422, error="unsupported_dialect", code="unsupported_dialect", failing=TTS)
        [error] = of("errors", findings([*many(20), *refused]))
        assert "are unsupported_dialect at tts-service" in error.summary

    def test_a_request_or_two_are_no_finding(self):
        kinds = [many(1 + n % 2, status=400, error="input_validation", code=f"code_{n}") for n in range(30)]
        found = findings([*many(100), *(trace for kind in kinds for trace in kind)])
        [error] = of("errors", found)
        assert error.severity == "fine" and error.summary.startswith("45 failed requests of 30 rare kinds: code_1 2, ")
        assert len(error.figures["rare"]) == 30

    def test_a_caller_is_shown_by_the_beginning_of_the_hash(self):
        assert ALICE not in report.as_text(evidence([]), findings([*many(20), *narrow(30)])).replace("http", "")


class TestBatching:
    WAITS = {TTS: {vocabulary.BATCH_WAIT_MS: 900, vocabulary.COMPUTE_MS: 150, "ms": 1050}}

    def test_size_one_under_load_names_the_setting(self):
        found = findings(many(40, stages=self.WAITS, ms=1300))
        [finding] = of("batching", found)
        assert finding.severity == "act"
        assert finding.change == Change("tts-service", {"max_batch_size": 8, "batch_wait_ms": 200})
        assert "not known" in finding.detail[-1] and "seems to be 1" in finding.summary
        assert of("bottleneck", found)[0].severity == "look"

    def test_serve_says_what_is_set(self):
        [finding] = of(
            "batching",
            findings(many(40, stages=self.WAITS, ms=1300), deployments=deployment("tts-service", max_batch_size=1)),
        )
        assert finding.change and "is set to 1" in finding.summary

    def test_sizes_of_one_where_eight_are_allowed_are_not_the_settings_fault(self):
        [finding] = of(
            "batching",
            findings(many(40, stages=self.WAITS, ms=1300), deployments=deployment("tts-service", max_batch_size=8)),
        )
        assert finding.change is None and finding.severity == "look"

    def test_a_wait_shorter_than_the_work_is_left_alone(self):
        calm = {TTS: {vocabulary.BATCH_WAIT_MS: 100, vocabulary.COMPUTE_MS: 150, "ms": 250}}
        assert not of("batching", findings(many(40, stages=calm)))

    def test_a_stage_that_is_not_the_bottleneck_is_left_alone(self):
        stages = {
            vocabulary.EXTRACT_SPEAKER: {vocabulary.BATCH_WAIT_MS: 60, vocabulary.COMPUTE_MS: 20, "ms": 80},
            TTS: {vocabulary.COMPUTE_MS: 900, "ms": 900},
        }
        assert not acts(findings(many(40, stages=stages, ms=1100)))

    def test_a_cpus_vocoder_has_batches_of_one_on_purpose(self):
        waits = {VOCODER: {vocabulary.BATCH_WAIT_MS: 900, vocabulary.COMPUTE_MS: 150, "ms": 1050}}
        [finding] = of("batching", findings(many(40, stages=waits, ms=1300)))
        assert finding.change is None and finding.severity == "look" and "on purpose" in finding.summary

    def test_a_gpus_vocoder_has_not(self):
        waits = {
            VOCODER: {
                vocabulary.BATCH_WAIT_MS: 900,
                vocabulary.COMPUTE_MS: 150,
                "ms": 1050,
                vocabulary.DEVICE: "cuda:0",
            }
        }
        assert of("batching", findings(many(40, stages=waits, ms=1300)))[0].change.deployment == "vocoder-service"

    @staticmethod
    def sized(size: int, compute: float, wait: float = 900) -> dict:
        return {
            TTS: {
                vocabulary.BATCH_SIZE: size,
                vocabulary.COMPUTE_MS: compute,
                vocabulary.BATCH_WAIT_MS: wait,
                "ms": wait + compute,
            }
        }

    def test_full_batches_of_two_that_pay_may_be_larger(self):
        traces = [*many(10, stages=self.sized(1, 150)), *many(40, stages=self.sized(2, 165))]
        [finding] = of("batching", findings(traces, deployments=deployment("tts-service", max_batch_size=2)))
        assert finding.change and finding.figures["member_cost_ratio"] == pytest.approx(0.55)

    def test_full_batches_of_two_that_do_not_pay_may_not(self):
        traces = [*many(10, stages=self.sized(1, 150)), *many(40, stages=self.sized(2, 330))]
        [finding] = of("batching", findings(traces, deployments=deployment("tts-service", max_batch_size=2)))
        assert finding.change is None and "don't pay" in finding.summary

    def test_full_batches_of_eight_need_something_else(self):
        traces = [*many(10, stages=self.sized(1, 150)), *many(40, stages=self.sized(8, 255))]
        [finding] = of("batching", findings(traces, deployments=deployment("tts-service", max_batch_size=8)))
        assert finding.change is None and "more replicas" in finding.advice

    def test_members_of_one_batch_are_one_batch(self):
        twice = self.sized(2, 165)
        twice[TTS][vocabulary.BATCH_ID] = "ab" * 8
        [finding] = of(
            "batching",
            findings(
                [*many(40, stages=self.sized(1, 150)), *many(8, stages=twice)],
                deployments=deployment("tts-service", max_batch_size=1),
            ),
        )
        assert "batches of 2: 165 ms compute, 1 seen" in finding.detail

    def test_streams_do_not_tell_what_a_batch_costs(self):
        """Ten chunks are computed in ten batches; their span has the sum, and the last one's size."""
        streamed = {
            VOCODER: {vocabulary.BATCH_SIZE: 2, vocabulary.COMPUTE_MS: 900, vocabulary.STREAM_CHUNKS: 10, "ms": 900}
        }
        whole = {VOCODER: {vocabulary.BATCH_SIZE: 1, vocabulary.COMPUTE_MS: 90, "ms": 90}}
        assert not of("batching", findings([*many(40, stages=whole), *many(30, stages=streamed, ms=1200)]))

    def test_streams_alone_still_show_waits_for_a_batch_of_one(self):
        waits = {
            TTS: {vocabulary.BATCH_WAIT_MS: 900, vocabulary.COMPUTE_MS: 150, vocabulary.STREAM_CHUNKS: 4, "ms": 1050}
        }
        [finding] = of("batching", findings(many(40, stages=waits, ms=1300)))
        assert finding.change and "not known" in finding.detail[-1]


class TestQueues:
    @staticmethod
    def growing(count: int = 60) -> list[list[dict]]:
        return [
            spans(
                at=(n + 0.5) * LENGTH / count,
                ms=100 + 200 * n,
                stages={
                    TTS: {
                        vocabulary.BATCH_WAIT_MS: 150 * n,
                        vocabulary.COMPUTE_MS: 100,
                        "ms": 100 + 150 * n,
                        vocabulary.BATCH_SIZE: 8,
                    }
                },
            )
            for n in range(count)
        ]

    def test_a_growing_wait_against_all_replicas_is_acted_on(self):
        [finding] = of("queue", findings(self.growing(), deployments=deployment("tts-service", 1, max_batch_size=8)))
        assert finding.severity == "act" and "1 of at most 1 replicas" in finding.summary and "grows" in finding.summary

    def test_where_replicas_can_still_be_added_it_is_only_told(self):
        [finding] = of("queue", findings(self.growing(), deployments=deployment("tts-service", 4, max_batch_size=8)))
        assert finding.severity == "look" and "autoscaling" in finding.advice

    @pytest.mark.parametrize(
        "tag, stage", [(vocabulary.QUEUE_WAIT_MS, "ADMISSION"), (vocabulary.PROXY_WAIT_MS, "PROXY")]
    )
    def test_a_wait_before_the_graph(self, tag, stage):
        traces = [spans(at=n * 50 + 1, ms=5000, **{tag: str(80 * n)}) for n in range(60)]
        [finding] = of("queue", findings(traces))
        assert finding.figures["stage"] == stage and finding.severity == "act"

    def test_one_burst_is_not_growth(self):
        traces = [*many(80), *many(3, stages={TTS: {vocabulary.BATCH_WAIT_MS: 3000, "ms": 3000}})]
        assert all(finding.severity == "fine" for finding in of("queue", findings(traces)))


class TestDialects:
    def test_one_that_fails_is_named(self):
        found = of(
            "dialect",
            findings(
                [
                    *many(60),
                    *many(10, dialect="sichuan"),
                    *many(
                        80, dialect="sichuan", status=500, error="internal", code="broken_voice", failing=TTS, user=BOB
                    ),
                ]
            ),
        )
        assert found[0].severity == "act" and found[0].summary.startswith("sichuan: at most")

    def test_chance_is_not(self):
        found = of(
            "dialect",
            findings(
                [*many(60), *many(2, dialect="sichuan"), *many(4, dialect="sichuan", status=500, error="internal")]
            ),
        )
        assert [finding.severity for finding in found] == ["fine"]

    def test_mixed_sampling_a_few_kept_good_ones_may_stand_for_many(self):
        """5 kept of a tenth: between 5 and 130 good ones. 15 failures are no proof against 98 %."""
        found = of(
            "dialect",
            findings(
                [*many(60), *many(5, dialect="sichuan"), *many(3, dialect="sichuan", status=500, error="internal")]
            ),
        )
        assert [finding.severity for finding in found] == ["fine"]

    def test_a_ratio_that_was_changed_meanwhile_weighs_each_by_its_own(self):
        """All kept, then a tenth: 800 of mandarin were good, and not the 7,280 of a tenth all along. What is
        known of 92 % and 83 % is not ten points apart."""
        mandarin = [*many(720, weight=1), *many(8), *many(70, status=500, error="internal", failing=TTS)]
        sichuan = [
            *many(100, dialect="sichuan"),
            *many(200, dialect="sichuan", status=500, error="internal", failing=TTS),
        ]
        found = of("dialect", findings([*mandarin, *sichuan]))
        assert [finding.severity for finding in found] == ["fine"], found

    def test_where_only_errors_are_kept_nothing_is_known(self):
        found = of("dialect", findings([*narrow(40), *narrow(40, dialect="sichuan")]))
        assert [finding.severity for finding in found] == ["look"] and "not known" in found[0].summary

    def test_one_caller_is_not_the_dialect(self):
        found = of(
            "dialect", findings([*many(60), *many(10, dialect="sichuan"), *narrow(80, dialect="sichuan", user=BOB)])
        )
        assert found[0].severity == "look" and "one caller's" in found[0].advice

    def test_a_slower_one_is_named_unless_its_texts_are_longer(self):
        slow = of("dialect", findings([*many(40), *many(30, dialect="sichuan", ms=1500)]))
        assert "sichuan: half of its good requests take 1500 ms" in slow[0].summary
        long = {TTS: {vocabulary.TEXT_LENGTH: 60}}, {TTS: {vocabulary.TEXT_LENGTH: 20}}
        fair = of(
            "dialect", findings([*many(40, stages=long[1]), *many(30, dialect="sichuan", ms=1500, stages=long[0])])
        )
        assert [finding.severity for finding in fair] == ["fine"]


class TestFallback:
    def test_a_keys_dialect_that_stands_in_is_counted_by_weight(self):
        keyed = many(25, user=BOB, **{vocabulary.REQUEST_DIALECT_SOURCE: "key"})
        [finding] = of("fallback", findings([*many(75), *keyed]))
        assert finding.severity == "look" and finding.summary.startswith("about 250 requests named no dialect")
        assert "API key" in finding.summary and "user b0b000b0…" in finding.summary

    def test_a_stored_voices_own_is_as_it_should_be(self):
        [finding] = of("fallback", findings(many(25, **{vocabulary.REQUEST_DIALECT_SOURCE: "voice"})))
        assert finding.severity == "fine"

    def test_the_fallback_engine_shows_and_urges_while_it_speaks(self):
        first = [spans(at=at, **{vocabulary.REQUEST_FALLBACK: "true"}) for at in range(10, 40)]
        after = [spans(at=at) for at in range(50, 90)]
        assert [finding.severity for finding in of("fallback", findings(first))] == ["act"]
        assert [finding.severity for finding in of("fallback", findings([*first, *after]))] == ["look"]


class TestWatchdog:
    @staticmethod
    def action(name: str, at: float, **tags: str) -> Trace:
        return Trace.of(
            [
                {
                    "traceId": f"{at:032.0f}",
                    "id": f"{at:016.0f}",
                    "name": name.lower(),
                    "timestamp": at * 1e6,
                    "duration": 5,
                    "localEndpoint": {"serviceName": vocabulary.WATCHDOG},
                    "tags": {f"watchdog.{key}": value for key, value in tags.items()},
                }
            ]
        )

    def told(self, *actions: Trace) -> list:
        seen: Evidence = evidence(many(20))
        seen.read.watchdog = list(actions)
        return watchdog(seen)

    def test_what_it_did_is_told_with_cause_and_service(self):
        [finding] = self.told(
            self.action("CHECK_FAILED", 5, cause="canary_failed", service="tts-service"),
            self.action("CHECK_FAILED", 6, cause="canary_failed", service="tts-service"),
            self.action("REPLICA_REPLACED", 7, cause="unhealthy", service="tts-service"),
        )
        assert finding.summary == "the watchdog: 2 checks failed, 1 replica was replaced" and finding.severity == "look"
        assert "CHECK_FAILED: tts-service, canary_failed: 2" in finding.detail

    def test_traffic_that_is_still_switched_urges(self):
        there = self.action("TRAFFIC_SWITCHED", 5, cause="canary_failed", line="fallback")
        back = self.action("TRAFFIC_SWITCHED", 9, cause="recovered", line="primary")
        assert self.told(there)[0].severity == "act" and self.told(there, back)[0].severity == "look"
        assert self.told(back, there)[0].severity == "look", "by time, not by the order in which they were read"

    def test_a_restart_withheld_urges(self):
        assert self.told(self.action("RESTART_WITHHELD", 5, cause="budget", service="tts-service"))[0].severity == "act"

    def test_a_lost_node_is_named(self):
        tags = {"cause": "silent", "service": "ray", "node.address": "10.0.0.12"}
        [finding] = self.told(self.action("NODE_LOST", 5, **tags), self.action("CAPACITY_RESTORED", 6, **tags))
        assert finding.summary == "the watchdog: 1 node was lost, 1 lost node was made up for"
        assert "NODE_LOST: 10.0.0.12, silent: 1" in finding.detail and finding.severity == "look"

    def test_silence(self):
        assert self.told() == []


class TestTraces:
    def test_a_missing_stage_is_told_unless_the_voice_was_known(self):
        def without_voice(cache: str) -> list[dict]:
            return [
                span
                for span in spans(**{vocabulary.VOICE_CACHE: cache})
                if span["name"] not in ("preprocess_audio", "extract_speaker")
            ]

        known = of("traces", findings([*many(20), without_voice("hit"), without_voice("stored")]))
        assert [finding.severity for finding in known] == ["fine"]
        [missing] = of("traces", findings([*many(20), without_voice("miss")]))
        assert "1 of 21 traces is incomplete" in missing.summary and missing.severity == "fine"
        assert "PREPROCESS_AUDIO, EXTRACT_SPEAKER" in missing.summary

    def test_a_missing_parent_is_told_but_not_a_callers_own(self):
        below = spans()
        below[0]["parentId"] = "c" * 16
        assert of("traces", findings([below]))[0].severity == "fine"
        below[2]["parentId"] = "d" * 16
        assert "a span's parent is missing" in of("traces", findings([below]))[0].summary

    def test_a_stage_that_died_is_told_also_where_a_second_try_saved_the_request(self):
        found = of(
            "traces",
            findings([*many(20), *many(2, lost=TTS), *many(2, lost=TTS, status=503, error="stage_unavailable")]),
        )
        assert found[0].severity == "act"
        assert found[0].summary.startswith("tts-service did not answer 4 times, in 4 requests; a retry saved 2")

    def test_traces_that_never_arrived(self):
        found = of("traces", findings(many(20), counts=Counts(outcomes={"ok": 200}, lost_traces={"spool_full": 7})))
        assert (
            found[0].severity == "act" and "7 kept traces never reached a destination: spool_full 7" in found[0].summary
        )

    def test_a_span_sent_twice_counts_once(self):
        twice = spans()
        assert len(Trace.of([*twice, *twice]).spans) == len(twice)


class TestReport:
    def test_a_healthy_stack_gets_a_short_report(self):
        """With callers who try everything once, a slow request, a stage that died once, a check that failed once."""
        refused = [many(n % 3 + 1, status=400, error="input_validation", code=f"code_{n}") for n in range(40)]
        odd = [*many(1, lost=TTS), *many(1, status=503, error="overloaded"), *many(1, status=499, error="cancelled")]
        seen = evidence([*many(300), *many(200, dialect="sichuan"), *(one for kind in refused for one in kind), *odd])
        seen.read.watchdog = [TestWatchdog.action("CHECK_FAILED", 5, cause="canary_failed", service="tts-service")]
        found = examine(seen)
        assert [finding for finding in found if finding.severity != "fine"] == []
        text = report.as_text(seen, found)
        assert len(text.splitlines()) <= 30 and text.endswith("nothing to act on")
        assert "1 requests" not in text and "1 traces" not in text and "1 times" not in text

    def test_no_line_stands_twice(self):
        stages = {TTS: {vocabulary.BATCH_WAIT_MS: 9000, "ms": 9100}}
        seen = evidence([*many(60, stages=stages, ms=9300), *narrow(150), *narrow(80, user=BOB), *many(30, lost=TTS)])
        lines = [line.strip() for line in report.as_text(seen, examine(seen)).splitlines() if "·" in line]
        assert len(lines) == len(set(lines))

    def test_json_has_the_agreed_shape(self):
        seen = evidence([*many(60), *narrow(150)])
        told = json.loads(json.dumps(report.as_json(seen, examine(seen))))
        assert set(told) == {"from", "to", "sources", "findings"} and told["sources"]["prometheus"] is None
        for finding in told["findings"]:
            assert set(finding) == {"kind", "severity", "summary", "detail", "advice", "change", "traces", "figures"}
            assert "\n" not in finding["summary"]

    def test_text_says_what_to_do_first_and_how_much_there_is(self):
        seen = evidence([*many(60), *narrow(150)])
        text = report.as_text(seen, examine(seen))
        assert text.splitlines()[2].startswith("ACT") and text.endswith("1 to act on")
        assert all(len(line) <= 116 for line in text.splitlines() if "http" not in line)
