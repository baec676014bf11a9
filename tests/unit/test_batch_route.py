"""POST /v1/audio/speech/batch without Ray: the items' fields, their errors, traces, limits, and the end of them all."""

import asyncio
import base64
import json
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from starlette.responses import Response

from access.authentication import Authenticator
from access.authorization import AccessControl
from access.settings import CallerLimits
from deployments.ingress import app, responses
from deployments.ingress.request_models import MAX_ITEMS
from deployments.ingress.routes import batch
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.settings import GraphConfig, Limits, Tracing
from speech import requests
from speech.aligned_text import AlignedText
from speech.dialects import DIALECTS
from speech.encoding import FORMATS
from speech.errors import Overloaded, VoiceNotFound
from speech.mark import HEADER, Mark
from speech.words import AudioPart, part_of
from tracing import Tracer, vocabulary
from tracing.routes import Routes
from tracing.sampling import SamplingSettings

CLIP = base64.b64encode(b"clip").decode()


class Api:
    """The ingress as the route sees it, with a `speak` of the test's own behind the real middleware."""

    def __init__(self, folder, access=None, **limits):
        self.config = GraphConfig(limits=Limits(**limits)).api()
        capabilities = SimpleNamespace(name="fake", dialects=frozenset({"en-US", "en-GB", "zh-CN"}))
        self.engine = SimpleNamespace(capabilities=capabilities)
        self.registry, self.started_s = DIALECTS, 0
        self.voices_store = self.fitting = None
        self.access_control = access or AccessControl()
        self.spoken: list[tuple[dict, bytes | None]] = []
        self.cancelled = 0
        self.at_once = self.most_at_once = 0
        self.size = 100
        self.wait_s = 0.0
        self.file = folder / "spans.jsonl"
        tracing = Tracing(spans_file=str(self.file), sampling=SamplingSettings(ratio=1.0))
        self.recorder = TraceRecorder(tracing, DIALECTS)
        self.middleware = TracingMiddleware(
            app.build(self),
            Tracer("cosyvoice3-api"),
            self.recorder,
            Authenticator(None),
            routes=Routes(vocabulary.ROUTES),
            deadline_s=self.config.limits.deadline_s,
            trace_url=lambda trace_id: f"http://zipkin/{trace_id}",
            access_control=self.access_control,
        )

    def subrequest(self, parent, name, *, deadline_s, tags=None):
        return self.middleware.subrequests.open(parent, name, deadline_s=deadline_s, tags=tags)

    def trace_url(self, ctx):
        return self.middleware.trace_url(ctx, bool(ctx.kept))

    async def speak(self, fields, upload, ctx, **_):
        self.spoken.append((fields, upload))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.wait_s)
            request = requests.parse({"dialect": "en-US"} | fields)
            if request.utterance.text == "full":
                raise Overloaded("The service is full; try again.", code="queue_full", retry_after_s=5)
            if request.utterance.text == "defect":
                raise ZeroDivisionError
            if request.voice == "nobody":
                raise VoiceNotFound("No voice of this name or id is stored.", param="voice", code="voice_unknown")
            if request.timestamps:
                ctx.audio_s = 0.1
                words = part_of(AlignedText.of(request.written), request.written, 0.01, 0.09)
                audio = AudioPart(np.zeros(2400, np.int16), words)
                return await responses.whole(request, audio, 24_000, Mark("Us", ctx.trace_id))
            ctx.audio_s, ctx.voice_fit = 2.0, "fitted" if request.voice else None
            return Response(
                b"x" * self.size,
                media_type=FORMATS[request.response_format].media_type,
                headers={HEADER: Mark("Us", ctx.trace_id).value()},
            )
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once -= 1

    async def ask(self, body, **headers) -> httpx.Response:
        transport = httpx.ASGITransport(self.middleware, client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            content = body if isinstance(body, bytes) else json.dumps(body)
            return await http.post(batch.ROUTE, content=content, headers=headers)

    def post(self, body, **headers) -> httpx.Response:
        return asyncio.run(self.ask(body, **headers))

    def traces(self) -> dict[str, list[dict]]:
        self.recorder.close(5)
        kept = map(json.loads, self.file.read_text().splitlines())
        return {trace[0]["traceId"]: trace for trace in kept}


@pytest.fixture
def api(tmp_path):
    return Api(tmp_path)


def test_the_answer_is_as_vllm_omnis_clients_know_it_and_each_item_has_its_own_trace(api):
    answer = api.post({"items": [{"input": "One."}, {"input": "Two.", "response_format": "flac"}], "voice": "anna"})
    found = answer.json()
    outer = answer.headers["x-trace-id"]
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert {name: found[name] for name in ("total", "succeeded", "failed")} == {"total": 2, "succeeded": 2, "failed": 0}
    assert found["id"] == f"speech-batch-{outer}"
    assert Mark.parse(answer.headers[HEADER]).trace_id == outer
    for index, (result, kind) in enumerate(zip(found["results"], ("audio/wav", "audio/flac"), strict=True)):
        assert (result["index"], result["status"], result["media_type"]) == (index, "success", kind)
        assert base64.b64decode(result["audio_data"]) == b"x" * 100
        assert result["usage"] == {"input_tokens": 4, "output_tokens": 50, "total_tokens": 54}
        assert Mark.parse(result["aigc"]).trace_id == result["trace_id"], "the mark leads to the item's own trace"
        assert result["trace_url"] == f"http://zipkin/{result['trace_id']}" and result["voice_fit"] == "fitted"
        assert "error" not in result
    traces = api.traces()
    assert set(traces) == {outer, *(result["trace_id"] for result in found["results"])}
    [root, *named] = traces[outer]
    assert (root["tags"]["request.items"], root["tags"]["request.items_failed"]) == ("2", "0")
    assert [span["tags"]["subrequest.trace_id"] for span in named] == [one["trace_id"] for one in found["results"]]
    for result in found["results"]:
        tags = traces[result["trace_id"]][0]["tags"]
        assert (tags["request.parent"], tags["request.item"]) == (outer, str(result["index"]))


def test_an_items_fields_come_before_those_for_all(api):
    api.post(
        {
            "items": [{"input": "One."}, {"input": "Two.", "voice": "bob", "speed": 1.5, "seed": None}],
            "voice": {"id": "anna"},
            "speed": 0.5,
            "seed": 7,
            "instructions": "Slowly.",
        }
    )
    (one, _), (two, _) = api.spoken
    assert (one["voice"], one["speed"], one["seed"], one["style_instruction"]) == ("anna", "0.5", "7", "Slowly.")
    assert (two["voice"], two["speed"], two["seed"]) == ("bob", "1.5", "7")
    assert one["mode"] == "instruct" and one["response_format"] == "wav" and "stream_format" not in one


def test_an_item_with_times_has_them_beside_its_audio(api):
    """The file is the one of a plain item; only the items that ask for times have them, or all by the common field."""
    items = [{"input": "One."}, {"input": "Two.", "timestamps": "part", "response_format": "flac"}]
    plain, timed = api.post({"items": items}).json()["results"]
    assert "timestamps" not in plain and plain["media_type"] == "audio/wav"
    assert timed["timestamps"] == [{"text": "Two.", "start": 0, "end": 4, "start_s": 0.01, "end_s": 0.09}]
    assert timed["media_type"] == "audio/flac" and base64.b64decode(timed["audio_data"])[:4] == b"fLaC"
    assert (timed["seconds"], timed["usage"]["output_tokens"]) == (0.1, 2)
    assert Mark.parse(timed["aigc"]).trace_id == timed["trace_id"]
    assert set(timed) - set(plain) == {"timestamps"}

    both = api.post({"items": [{"input": "One."}, {"input": "Two."}], "timestamps": "part"}).json()["results"]
    assert [one["timestamps"][0]["text"] for one in both] == ["One.", "Two."]
    assert base64.b64decode(both[0]["audio_data"])[:4] == b"RIFF" and both[0]["media_type"] == "audio/wav"


def test_the_room_for_the_answer_holds_the_times_too(tmp_path, monkeypatch):
    """A file of 4,844 bytes and its times, as much as they take in base64."""
    monkeypatch.setattr(batch, "MAX_ANSWER_BYTES", 4900)
    found = Api(tmp_path).post({"items": [{"input": "One."}], "timestamps": "part"}).json()
    assert [one["error_code"] for one in found["results"]] == ["answer_too_large"]
    monkeypatch.setattr(batch, "MAX_ANSWER_BYTES", 7000)
    found = Api(tmp_path).post({"items": [{"input": "One."}], "timestamps": "part"}).json()
    assert found["succeeded"] == 1


def test_fields_that_speak_of_one_thing_are_inherited_together_or_not_at_all(api):
    ref = f"data:audio/wav;base64,{CLIP}"
    other = "data:audio/wav;base64," + base64.b64encode(b"other").decode()
    api.post(
        {
            "items": [
                {"input": "a"},
                {"input": "b", "voice": "anna"},
                {"input": "c", "ref_audio": other},
                {"input": "d", "ref_text": "his own words"},
                {"input": "e", "language": "zh"},
            ],
            "ref_audio": ref,
            "ref_text": "said in the clip",
            "dialect": "en-GB",
        }
    )
    by_text = {fields["text"]: (fields, clip) for fields, clip in api.spoken}
    assert by_text["a"][1] == b"clip" and by_text["a"][0]["prompt_text"] == "said in the clip"
    assert by_text["b"][1] is None and by_text["b"][0]["voice"] == "anna" and "prompt_text" not in by_text["b"][0]
    assert by_text["c"][1] == b"other" and "prompt_text" not in by_text["c"][0], "another clip's words would be wrong"
    assert by_text["d"][1] == b"clip" and by_text["d"][0]["prompt_text"] == "his own words"
    assert by_text["a"][0]["dialect"] == "en-GB" and by_text["e"][0]["dialect"] == "zh-CN"


@pytest.mark.parametrize(
    "item, expected",
    [
        ({"input": ""}, ("input_validation", "text_empty", "input", 400)),
        ({"input": "a", "speed": 9}, ("input_validation", "speed_out_of_range", "speed", 400)),
        ({"input": "a", "ref_audio": "http://x/a.wav"}, ("input_validation", "url_not_allowed", "ref_audio", 400)),
        ({"input": "a", "language": "en"}, ("input_validation", "language_unclear", "language", 400)),
        ({"input": "a", "model": "gpt"}, ("not_found", "model_not_found", "model", 404)),
        ({"input": "a", "voice": "nobody"}, ("voice_not_found", "voice_unknown", "voice", 404)),
        ({"input": "a", "stream": True}, ("input_validation", "batch_stream", "stream", 400)),
        ({"input": "a", "timestamps": "letter"}, ("input_validation", "timestamps_unknown", "timestamps", 400)),
        ({"input": "a", "stream_format": "sse"}, ("input_validation", "field_unknown", None, 400)),
        ({"input": "a", "voise": "anna"}, ("input_validation", "field_unknown", None, 400)),
        ({"input": ["a"]}, ("input_validation", "field_type", "input", 400)),
        ({"input": "a [pause] b"}, ("input_validation", "pause_malformed", "input", 400)),
        ({"input": "a [b]([pause:1s]) c"}, ("input_validation", "pause_in_markup", "input", 400)),
        ({}, ("input_validation", "text_empty", "input", 400)),
        ("a", ("input_validation", "item_not_object", None, 400)),
        (None, ("input_validation", "item_not_object", None, 400)),
        ({"input": "full"}, ("overloaded", "queue_full", None, 503)),
        ({"input": "defect"}, ("internal", None, None, 500)),
    ],
)
def test_an_item_fails_alone_and_says_why_in_its_own_names(api, item, expected):
    answer = api.post({"items": [{"input": "One."}, item, {"input": "Three."}]})
    found = answer.json()
    assert answer.status_code == 200 and (found["succeeded"], found["failed"]) == (2, 1)
    good, bad, _ = found["results"]
    named = tuple(bad.get(name) for name in ("error_type", "error_code", "error_param", "status_code"))
    assert named == expected and bad["status"] == "error" and isinstance(bad["error"], str) and "audio_data" not in bad
    assert ("retry_after" in bad) == (expected[0] == "overloaded")
    traces = api.traces()
    tags = traces[bad["trace_id"]][0]["tags"]
    assert (tags["error.type"], tags["http.status_code"]) == (expected[0], str(expected[3]))
    assert "error" not in traces[answer.headers["x-trace-id"]][0]["tags"]
    assert traces[good["trace_id"]][0]["tags"]["http.status_code"] == "200"


@pytest.mark.parametrize(
    "body, code, remedy",
    [
        (b"no", "not_json", "JSON object"),
        ({}, "items_count", '{"items": [{"input"'),
        ({"items": []}, "items_count", "1 to 32"),
        ({"items": "Hello"}, "items_count", "must be a list"),
        ({"items": [{"input": "a"}] * 33}, "items_count", "this batch has 33"),
        ({"items": [{"input": "a"}], "input": "b"}, "input_beside_items", "into each item"),
        ({"items": [{"input": "a"}], "voise": "anna"}, "field_unknown", "Known fields: items, voice"),
        ({"items": [{"input": "a"}], "stream": True}, "batch_stream", "/v1/audio/speech"),
        ({"items": [{"input": "a"}], "speed": [1]}, "field_type", "'speed'"),
        ({"items": [{"input": "a" * 29_000_000}]}, "batch_too_large", "store the voice"),
    ],
)
def test_a_batch_that_is_none_is_refused_as_a_whole(api, body, code, remedy):
    answer = api.post(body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code) and remedy in error["message"]
    assert not api.spoken and HEADER not in answer.headers


def test_where_all_fail_there_is_no_speech_to_mark(api):
    answer = api.post({"items": [{"input": ""}]})
    assert answer.status_code == 200 and answer.json()["failed"] == 1 and HEADER not in answer.headers


def test_only_so_many_are_spoken_at_a_time_and_the_results_have_the_items_order(tmp_path):
    api = Api(tmp_path, batch_items_at_once=3)
    api.wait_s = 0.005
    found = api.post({"items": [{"input": f"Number {number}."} for number in range(32)]}).json()
    assert api.most_at_once == 3 and found["succeeded"] == 32
    assert [result["index"] for result in found["results"]] == list(range(32))


def test_what_the_answer_has_no_room_for_is_refused_and_no_more_is_spoken(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_ANSWER_BYTES", 250)
    api = Api(tmp_path, batch_items_at_once=1)
    found = api.post({"items": [{"input": "a"}] * 5}).json()
    assert [result["status"] for result in found["results"]] == ["success"] * 2 + ["error"] * 3
    assert {result["error_code"] for result in found["results"][2:]} == {"answer_too_large"}
    assert "mp3" in found["results"][2]["error"] and len(api.spoken) == 3, "the third one found that there is no room"


def test_the_batch_has_a_deadline_and_an_item_that_is_not_begun_by_then_is_refused(tmp_path):
    api = Api(tmp_path, batch_items_at_once=1, deadline_s=5, long_deadline_s=0.05)
    api.wait_s = 0.1
    first, second = api.post({"items": [{"input": "a"}, {"input": "b"}]}).json()["results"]
    assert first["status"] == "success", "the stages themselves keep the deadline, and this one has none"
    assert (second["error_code"], second["status_code"]) == ("batch_deadline", 504) and len(api.spoken) == 1


def test_a_client_that_leaves_cancels_all_items_and_each_trace_says_so(tmp_path):
    api = Api(tmp_path, batch_items_at_once=2)
    api.wait_s = 60

    async def leave():
        asking = asyncio.create_task(api.ask({"items": [{"input": "a"}] * 4}))
        while api.at_once < 2:
            await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.05)

    asyncio.run(leave())
    assert api.cancelled == len(api.spoken) == 2 and api.at_once == 0
    errors = [trace[0]["tags"]["error.type"] for trace in api.traces().values()]
    assert errors == ["cancelled"] * 3, "two items and the batch; the others were never begun"


class TestLimits:
    """A caller's limits count items, wherever the batch comes in between."""

    def api(self, folder, **limits) -> Api:
        return Api(folder, AccessControl(default_limits=CallerLimits(**limits)))

    def test_each_item_counts_against_the_rate(self, tmp_path):
        api = self.api(tmp_path, requests_per_minute=1, burst=3)
        results = api.post({"items": [{"input": "a"}] * 5}).json()["results"]
        assert [result["status"] for result in results] == ["success"] * 3 + ["error"] * 2
        assert {result["error_code"] for result in results[3:]} == {"too_many_requests"}
        assert results[4]["status_code"] == 429 and results[4]["retry_after"] > 30
        assert results[4]["trace_id"] in api.traces()

    @pytest.mark.parametrize("concurrent", [1, 3])
    def test_items_take_the_callers_places_and_wait_for_them(self, tmp_path, concurrent):
        api = self.api(tmp_path, concurrent=concurrent)
        api.wait_s = 0.005
        found = api.post({"items": [{"input": "a"}] * 9}).json()
        assert found["succeeded"] == 9 and api.most_at_once == concurrent
        assert api.access_control.counters()["access_under_way"] == 0

    def test_both_limits_at_once(self, tmp_path):
        api = self.api(tmp_path, concurrent=2, requests_per_minute=1, burst=4)
        api.wait_s = 0.005
        found = api.post({"items": [{"input": "a"}] * 6}).json()
        assert (found["succeeded"], found["failed"], api.most_at_once) == (4, 2, 2)

    def test_two_batches_of_one_caller_share_its_places(self, tmp_path):
        api = self.api(tmp_path, concurrent=3)
        api.wait_s = 0.01

        async def both():
            body = {"items": [{"input": "a"}] * 6}
            return await asyncio.gather(api.ask(body), api.ask(body))

        answers = asyncio.run(both())
        assert [answer.json()["succeeded"] for answer in answers] == [6, 6] and api.most_at_once == 3


def test_without_a_key_nothing_is_read(tmp_path):
    api = Api(tmp_path, AccessControl(required=True))
    assert api.post({"items": [{"input": "a"}]}).status_code == 401 and not api.spoken


@pytest.mark.parametrize("value, count", [(b"[]", 9_000_000), (b"{}", 9_000_000), (b'"":0', 4_000_000)])
def test_a_body_of_millions_of_values_is_refused_at_once(api, value, count):
    begins, ends = (b'{"items": {', b"}}") if b":" in value else (b'{"items": [', b"]}")
    start = time.thread_time()
    error = api.post(begins + (value + b",") * (count - 1) + value + ends).json()["error"]
    assert error["code"] == "json_too_complex" and "documented fields" in error["message"]
    assert time.thread_time() - start < 0.5


def test_the_longest_texts_of_a_batch_are_not_too_complex(api):
    body = {"items": [{"input": "a," * 2_500, "seed": n} for n in range(MAX_ITEMS)], "ref_audio": "," * 1_000}
    assert api.post(body).json()["total"] == MAX_ITEMS
