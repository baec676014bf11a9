"""The voices' endpoints, in an app of their own around a real store and a real engine's capabilities."""

from __future__ import annotations

import dataclasses

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.testclient import TestClient

from access.authentication import Principal
from deployments.ingress.context import RequestContext
from deployments.ingress.fitting import Fitting
from deployments.ingress.routes import voices as routes
from engines import contract
from speech.dialects import DIALECTS
from speech.errors import InvalidInput, SpeechError, StageUnavailable, VoiceNotFound
from tests.helpers.serving import tone
from tracing import Tracer
from voices import VoiceRecord, Voices, VoiceSettings

CLIP = tone()
GOOD = {"name": "anna", "dialect": "en-US", "consent": "Agreed in writing.", "prompt_text": "secret words"}


class Api:
    """A stand-in for the ingress, as the endpoints see it."""

    def __init__(self, settings: VoiceSettings, fit_ms: float = 0, handle: object = None) -> None:
        self.engine = contract.create("simulated", {"fit_ms": fit_ms})
        self.engine.capabilities = dataclasses.replace(self.engine.capabilities, dialects=frozenset({"en-US", "zh-CN"}))
        self.registry = DIALECTS
        self.voices_store = Voices.open(settings)
        self.fitting = Fitting(handle, self.voices_store, self.engine.capabilities)
        self.runs: list[RequestContext] = []
        self.trouble: SpeechError | None = None

    async def prepare_voice(self, record: VoiceRecord, run: RequestContext) -> None:
        if self.trouble:
            raise self.trouble

    def is_admin(self, run: RequestContext) -> bool:
        return run.caller.key == "admin"

    def client(self) -> TestClient:
        app = FastAPI()
        tracer = Tracer("cosyvoice3-api")
        routes.add(app, self)

        @app.middleware("http")
        async def run(request: Request, go_on):
            root = tracer.server("POST /v1/audio/voices", parent=None)
            request.state.context = RequestContext(
                tracer, root, 60.0, root.start_ns, caller=Principal(key=request.headers.get("x-api-key"))
            )
            self.runs.append(request.state.context)
            return await go_on(request)

        @app.exception_handler(SpeechError)
        async def failed(request: Request, error: SpeechError):
            request.state.context.error = error
            return JSONResponse(error.body(), error.status, error.headers())

        return TestClient(app)

    def tags(self) -> dict[str, str]:
        """The tags of the last request's root span."""
        return self.runs[-1].finish(200)[0].tags


@pytest.fixture
def api(tmp_path) -> Api:
    return Api(VoiceSettings(url=str(tmp_path), max_voices=2))


@pytest.fixture
def client(api) -> TestClient:
    return api.client()


def enrol(client, clip: bytes = CLIP, field: str = "audio_sample", key: str | None = None, **fields):
    return client.post(
        "/v1/audio/voices",
        data=GOOD | fields,
        files={field: ("private.wav", clip)},
        headers={"x-api-key": key} if key else {},
    )


def check(answer, status: int, code: str, param: str | None, type: str = "input_validation"):
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"], error["type"]) == (status, code, param, type)
    for private in ("anna", "secret", "writing", "private"):
        assert private not in answer.text
    return error["message"]


def test_a_voice_is_stored_shown_listed_and_deleted(client):
    answer = enrol(client)
    voice = answer.json()
    assert answer.status_code == 201 and voice["id"].startswith("voice_")
    assert voice | {"id": "", "created_at": 0, "consent": ""} == {
        "id": "",
        "object": "audio.voice",
        "name": "anna",
        "dialect": "en-US",
        "language": "en",
        "created_at": 0,
        "consent": "",
        "has_transcript": True,
        "clip": {"seconds": 4.0, "sample_rate": 24000, "format": "wav", "bytes": len(CLIP)},
        "fit": None,
    }
    assert voice["consent"]["agreed"] == "Agreed in writing." and voice["consent"]["at"].endswith("Z")
    assert "secret" not in answer.text
    for path in (voice["id"], "anna"):
        assert client.get(f"/v1/audio/voices/{path}").json() == voice
    assert client.get("/v1/audio/voices").json() == {"object": "list", "data": [voice]}
    assert client.delete("/v1/audio/voices/anna").json() == {
        "id": voice["id"],
        "object": "audio.voice.deleted",
        "deleted": True,
    }
    assert client.get("/v1/audio/voices").json() == {"object": "list", "data": []}
    for call in (client.get, client.delete):
        check(call("/v1/audio/voices/anna"), 404, "voice_unknown", "voice", "voice_not_found")


def test_the_same_again_is_200(client):
    first = enrol(client)
    again = enrol(client, consent="Agreed once more.", field="prompt_audio")
    assert (first.status_code, again.status_code) == (201, 200) and again.json() == first.json()


def test_a_name_in_any_script_is_a_path(client):
    voice = enrol(client, name="安娜.é").json()
    assert client.get("/v1/audio/voices/安娜.e\u0301").json() == voice
    assert client.get("/v1/audio/voices/%E5%AE%89%E5%A8%9C.%C3%A9").json() == voice


def test_conflicts(client):
    voice = enrol(client).json()
    assert voice["id"] in check(enrol(client, name="bert"), 409, "voice_exists", "name", "conflict")
    assert voice["id"] not in check(enrol(client, name="bert", key="another"), 409, "voice_exists", "name", "conflict")
    check(enrol(client, clip=tone(hz=200)), 409, "voice_name_taken", "name", "conflict")
    check(enrol(client, dialect="zh-CN"), 409, "voice_differs", "dialect", "conflict")
    assert enrol(client, name="carl", clip=tone(hz=220)).status_code == 201
    check(enrol(client, name="dora", clip=tone(hz=240)), 409, "voices_full", None, "conflict")


@pytest.mark.parametrize(
    "clip, code",
    [
        (b"", "clip_empty"),
        (b"text" * 50, "not_audio"),
        (tone(rate=8000), "sample_rate_too_low"),
        (tone(seconds=2), "clip_too_short"),
        (tone(seconds=16), "clip_too_long"),
        (tone(level=0), "no_speech"),
        (CLIP[: len(CLIP) // 2], "clip_truncated"),
        (CLIP + bytes(21 * 2**20), "clip_too_large"),
    ],
)
def test_a_bad_clip_is_refused_at_once(client, clip, code):
    check(enrol(client, clip), 400, code, "audio_sample")
    assert client.get("/v1/audio/voices").json()["data"] == []


def test_the_trace_says_what_the_clip_was_like_also_of_one_refused(api, client):
    enrol(client, tone(rate=8000, format="FLAC"))
    tags = api.tags()
    assert (tags["audio.sample_rate"], tags["audio.format"], tags["audio.duration"]) == (8000, "flac", 4.0)
    assert tags["request.dialect"] == "english-us" and tags["request.dialect.source"] == "request"
    assert tags["error.code"] == "sample_rate_too_low"
    enrol(client)
    assert api.tags()["audio.clipping"] == 0.0
    assert not {"anna", "secret words", "private.wav", GOOD["consent"]} & set(map(str, api.tags().values()))


def test_bad_fields(client):
    check(enrol(client, name=""), 400, "name_missing", "name")
    check(enrol(client, name="voice_anna"), 400, "name_like_an_id", "name")
    check(enrol(client, consent=" "), 400, "consent_missing", "consent")
    check(enrol(client, dialect=""), 400, "dialect_missing", "dialect")
    check(enrol(client, dialect="zh-Sichuan"), 422, "unsupported_dialect", "dialect", "unsupported_dialect")
    check(enrol(client, text="secret"), 400, "field_unknown", None)


def test_bad_forms(client):
    url = "/v1/audio/voices"
    message = check(client.post(url, json=GOOD), 400, "not_multipart", None)
    assert "audio_sample (a file), name, dialect and consent" in message
    check(client.post(url, data=GOOD, files={"other": ("x", b"x")}), 400, "field_is_file", None)
    check(
        client.post(url, files={name: (None, value) for name, value in GOOD.items()}),
        400,
        "clip_missing",
        "audio_sample",
    )
    for field in ("audio_sample", "prompt_audio"):
        check(client.post(url, files={field: (None, "text")}), 400, "clip_not_a_file", "audio_sample")
    check(
        client.post(url, data=GOOD, files={"audio_sample": ("a", CLIP), "prompt_audio": ("a", CLIP)}),
        400,
        "field_twice",
        None,
    )


def test_a_voice_is_deleted_by_its_owner_or_an_administrator(client):
    enrol(client, key="a-key")
    path = "/v1/audio/voices/anna"
    for headers in ({}, {"x-api-key": "another"}):
        check(client.delete(path, headers=headers), 403, "voice_not_yours", "voice", "not_authorized")
    assert client.get(path).status_code == 200
    assert client.delete(path, headers={"x-api-key": "a-key"}).status_code == 200
    enrol(client, key="a-key")
    assert client.delete(path, headers={"x-api-key": "admin"}).status_code == 200


def test_a_voice_is_renamed_and_stays_itself(client):
    voice, other = enrol(client).json(), enrol(client, clip=tone(hz=200), name="bert").json()
    path = f"/v1/audio/voices/{voice['id']}"
    assert client.patch(path, json={"name": "安娜"}).json() == voice | {"name": "安娜"}
    assert client.patch("/v1/audio/voices/安娜", json={"name": "安娜"}).json() == voice | {"name": "安娜"}, "again"
    check(client.get("/v1/audio/voices/anna"), 404, "voice_unknown", "voice", "voice_not_found")
    assert client.get("/v1/audio/voices").json()["data"] == [voice | {"name": "安娜"}, other], "its place in the list"
    check(client.patch(path, json={"name": "bert"}), 409, "voice_name_taken", "name", "conflict")
    assert client.patch("/v1/audio/voices/bert", json={"name": "anna"}).status_code == 200, "the old name is free"


@pytest.mark.parametrize(
    "body, code, param",
    [
        ({}, "name_missing", "name"),
        ({"name": ""}, "name_missing", "name"),
        ({"name": "a/b"}, "name_character", "name"),
        ({"name": "voice_1"}, "name_like_an_id", "name"),
        ({"name": 5}, "field_type", "name"),
        ({"name": "bert", "dialect": "zh-CN"}, "field_unknown", None),
        ([], "not_json", None),
    ],
)
def test_a_new_name_is_checked_like_the_first(client, body, code, param):
    enrol(client)
    check(client.patch("/v1/audio/voices/anna", json=body), 400, code, param)
    assert client.get("/v1/audio/voices/anna").status_code == 200


def test_a_voice_is_renamed_by_its_owner_or_an_administrator(client):
    enrol(client, key="a-key")
    for headers in ({}, {"x-api-key": "another"}):
        refused = client.patch("/v1/audio/voices/anna", json={"name": "bert"}, headers=headers)
        check(refused, 403, "voice_not_yours", "voice", "not_authorized")
    for key, old, new in (("a-key", "anna", "bert"), ("admin", "bert", "carl")):
        answer = client.patch(f"/v1/audio/voices/{old}", json={"name": new}, headers={"x-api-key": key})
        assert (answer.status_code, answer.json()["name"]) == (200, new)


def test_a_voice_that_is_stored_again_meanwhile_is_not_renamed(api, client):
    enrol(client)
    before = api.voices_store.find("anna")
    client.delete("/v1/audio/voices/anna")
    enrol(client)
    with pytest.raises(VoiceNotFound):
        api.voices_store.rename(before, "bert")
    assert [voice.name for voice in api.voices_store.all()] == ["anna"]


def test_without_a_store(tmp_path):
    client = Api(VoiceSettings()).client()
    for answer in (
        enrol(client),
        client.get("/v1/audio/voices"),
        client.get("/v1/audio/voices/x"),
        client.patch("/v1/audio/voices/x", json={"name": "y"}),
        client.delete("/v1/audio/voices/x"),
    ):
        assert "voices.url" in check(answer, 404, "voices_off", None, "not_found")


def test_a_store_that_fails_is_503(tmp_path):
    (tmp_path / "voices").write_text("in the way")
    client = Api(VoiceSettings(url=str(tmp_path / "voices"))).client()
    for answer in (enrol(client), client.get("/v1/audio/voices"), client.delete("/v1/audio/voices/x")):
        check(answer, 503, "voice_store_failed", None, "voice_store_unavailable")
        assert answer.headers["retry-after"] == "5"


def test_the_description_has_the_endpoints(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/audio/voices"]) == {"post", "get"}
    assert set(paths["/v1/audio/voices/{voice}"]) == {"get", "patch", "delete"}
    form = paths["/v1/audio/voices"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["required"]) == {"name", "audio_sample", "dialect", "consent"}


def test_a_clip_in_which_no_voice_is_found_is_not_kept(client, api):
    api.trouble = InvalidInput("too little of it", param="prompt_audio", code="no_voice")
    check(enrol(client), 400, "no_voice", "audio_sample")
    assert client.get("/v1/audio/voices").json()["data"] == []


def test_a_stage_that_is_away_delays_a_voice_and_does_not_refuse_it(client, api, caplog):
    api.trouble = StageUnavailable("embedding-service is not available")
    assert enrol(client).status_code == 201
    assert "waits for its first request" in caplog.text and "anna" not in caplog.text


@pytest.fixture
def fitting(tmp_path) -> Api:
    """An ingress beside a fitting-service; the endpoints never wait for that, so any handle will do."""
    return Api(VoiceSettings(url=str(tmp_path)), fit_ms=1, handle=object())


def fit_of(client, voice: str = "anna") -> dict | None:
    one = client.get(f"/v1/audio/voices/{voice}").json()
    assert one in client.get("/v1/audio/voices").json()["data"], "the list says the same"
    return one["fit"]


def test_an_enrolment_queues_a_fit_that_names_the_request(fitting):
    client = fitting.client()
    queued = {"state": "queued", "step": 0, "steps": 0, "why": ""}
    assert enrol(client).json()["fit"] == queued and fit_of(client) == queued
    work = fitting.voices_store.fits.take(("simulated", "1"), "service")
    assert work.fit.asked_by == fitting.runs[0].trace_id
    fitting.voices_store.fits.keep(work, 3, 10)
    assert fit_of(client) == {"state": "running", "step": 3, "steps": 10, "why": ""}
    fitting.voices_store.fits.fail(work, "no")
    assert fit_of(client) == {"state": "failed", "step": 3, "steps": 10, "why": "no"}
    assert enrol(client).json()["fit"]["state"] == "failed", "the same voice again asks for nothing"


def test_fit_false_leaves_it_out_and_a_post_asks_for_it_later_or_again(fitting):
    client = fitting.client()
    assert enrol(client, fit="false").json()["fit"] is None and fit_of(client) is None
    for _ in range(2):
        answer = client.post("/v1/audio/voices/anna/fit")
        assert answer.status_code == 202 and answer.json()["fit"]["state"] == "queued"
        work = fitting.voices_store.fits.take(("simulated", "1"), "service")
        assert work.fit.asked_by == fitting.runs[-1].trace_id
        fitting.voices_store.fits.fail(work, "no")
    check(enrol(client, name="bert", fit="maybe"), 400, "fit_unknown", "fit")
    check(client.post("/v1/audio/voices/bert/fit"), 404, "voice_unknown", "voice", "voice_not_found")


def test_a_voice_is_fitted_by_its_owner_or_an_administrator(fitting):
    client = fitting.client()
    enrol(client, key="mine")
    check(
        client.post("/v1/audio/voices/anna/fit", headers={"x-api-key": "theirs"}),
        403,
        "voice_not_yours",
        "voice",
        "not_authorized",
    )
    assert client.post("/v1/audio/voices/anna/fit", headers={"x-api-key": "admin"}).status_code == 202


def test_where_no_voices_are_fitted_a_post_says_so_and_an_enrolment_goes_on(tmp_path):
    for api in (Api(VoiceSettings(url=str(tmp_path))), Api(VoiceSettings(url=str(tmp_path / "b")), fit_ms=1)):
        client = api.client()
        assert enrol(client).status_code == 201
        check(client.post("/v1/audio/voices/anna/fit"), 409, "fits_off", None, "conflict")
    assert fit_of(client)["state"] == "queued", "it is made when fitting-service runs again"
