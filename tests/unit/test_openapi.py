"""The OpenAPI description is made from the models, and agrees with the routes, the limits and the errors."""

from unittest.mock import Mock

import pytest
from fastapi.routing import APIRoute

from config import routes
from deployments.ingress import app, openai_fields, openapi, request_models
from deployments.ingress.routes import cosyvoice
from speech import errors, limits, requests
from speech.errors import SpeechError
from voices import enrolment


@pytest.fixture(scope="module")
def application():
    return app.build(Mock())


@pytest.fixture(scope="module")
def description(application):
    return application.openapi()


def fields(description, path: str, media: str = "multipart/form-data") -> dict:
    return description["paths"][path]["post"]["requestBody"]["content"][media]["schema"]


def test_the_table_of_routes_is_the_applications(application):
    served: dict[str, set[str]] = {}
    for route in application.routes:
        # A WebSocket's handshake is a GET.
        served.setdefault(route.path, set()).update(getattr(route, "methods", {"GET"}) - {"HEAD"})
    table: dict[str, set[str]] = {}
    for route in routes.ROUTES:
        table.setdefault(route.path, set()).update(route.methods)
    assert table.pop("/") == {"GET"}, "the page that a browser is taken to; it may be absent"
    served.pop("/", None)
    assert table == served


def test_every_route_of_ours_is_described(description, application):
    ours = {route.path for route in application.routes if isinstance(route, APIRoute) and route.include_in_schema}
    assert set(description["paths"]) == ours


def test_every_answer_that_is_described_has_a_trace_but_an_open_socket(description):
    """FastAPI describes an answer of 200 by itself where a route names no status: it would be one without a trace."""
    for path, methods in description["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                assert status == "101" or "X-Trace-Id" in answer["headers"], (path, status)


def test_the_limits_are_those_in_force(description):
    form = fields(description, "/api/generate")["properties"]
    assert form["text"]["maxLength"] == limits.MAX_LONG_TEXT and str(limits.MAX_TEXT) in form["text"]["description"]
    assert (form["speed"]["minimum"], form["speed"]["maximum"]) == requests.SPEED_RANGE
    assert form["seed"]["maximum"] == requests.MAX_SEED
    assert form["response_format"]["enum"] == list(requests.RESPONSE_FORMATS)
    assert limits.CLIP_DURATION in form["prompt_audio"]["description"]
    assert limits.CLIP_SIZE in form["prompt_audio"]["description"]
    assert form["prompt_audio"]["format"] == "binary"
    voice = fields(description, "/v1/audio/voices")
    assert voice["properties"]["consent"]["maxLength"] == enrolment.MAX_CONSENT
    assert set(voice["required"]) == {"name", "audio_sample", "dialect", "consent"}


def test_a_description_names_the_fields_that_the_routes_read(description):
    assert set(fields(description, "/api/generate")["properties"]) == {*requests.FIELDS, "prompt_audio"}
    assert set(fields(description, "/v1/audio/speech")["properties"]) == set(openai_fields.FIELDS)
    assert set(openai_fields.FIELDS) == {
        *openai_fields.RENAMED,
        *openai_fields.SAME,
        *("model", "voice", "ref_audio", "language", "stream", "task_type"),
    }
    assert set(fields(description, "/v1/audio/voices")["properties"]) == {*enrolment.FIELDS, enrolment.FILE}
    for path, needed in cosyvoice.PATHS.items():
        form = fields(description, path)
        assert set(form["required"]) == set(needed) and set(form["properties"]) == {*needed, "dialect"}


def test_defaults_are_those_of_the_parser(description):
    form = fields(description, "/api/generate")["properties"]
    parsed = requests.parse({"text": "Hi", "dialect": "en-US"})
    assert form["mode"]["default"] == parsed.utterance.mode
    assert form["speed"]["default"] == parsed.utterance.speed
    assert form["seed"]["default"] == parsed.utterance.seed
    assert form["response_format"]["default"] == parsed.response_format
    assert form["long_form"]["default"] is parsed.long_form


def test_errors_are_described_by_their_classes(description):
    answers = description["paths"]["/api/generate"]["post"]["responses"]
    for kind in (errors.InvalidInput, errors.RateLimited, errors.Overloaded, errors.DeadlineExceeded):
        assert f"({kind.type})" in answers[str(kind.status)]["description"]
    assert "Retry-After" in answers["429"]["headers"] and "Retry-After" in answers["503"]["headers"]
    assert "Retry-After" not in answers["400"]["headers"]
    body = description["components"]["schemas"]["ErrorDetail"]
    assert set(body["required"]) == set(SpeechError("x").body()["error"])


def test_no_schema_says_null_where_a_form_can_only_leave_a_field_out():
    shown = openapi.schema(request_models.GenerateForm)["properties"]
    assert all(field.get("type") != "null" and "anyOf" not in field for field in shown.values())
    assert "default" not in shown["voice"]
