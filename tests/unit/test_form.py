"""The two forms with a clip in them: what each takes, and what each says of the other's."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from deployments.ingress import form
from deployments.ingress.routes.voices import FORM
from speech.errors import InvalidInput


def client(kind: form.Kind) -> TestClient:
    async def read(request: Request) -> JSONResponse:
        try:
            asked = await form.read(request, kind)
        except InvalidInput as error:
            return JSONResponse([error.code, error.param, error.message], 400)
        return JSONResponse([asked.fields, (asked.prompt_audio or b"").decode()])

    return TestClient(Starlette(routes=[Route("/", read, methods=["POST"])]))


@pytest.mark.parametrize(
    "kind, field", [(form.GENERATE, "prompt_audio"), (FORM, "audio_sample"), (FORM, "prompt_audio")]
)
def test_the_clip_and_the_other_fields(kind, field):
    answer = client(kind).post("/", data={"text": "hi", "x": "y"}, files={field: ("a.wav", b"the clip")})
    assert answer.json() == [{"text": "hi", "x": "y"}, "the clip"]


@pytest.mark.parametrize("kind, name", [(form.GENERATE, "prompt_audio"), (FORM, "audio_sample")])
def test_errors_name_the_forms_own_field(kind, name):
    def refused(**how):
        answer = client(kind).post("/", **how)
        code, param, message = answer.json()
        assert answer.status_code == 400 and name in message
        return code, param

    text = {"text": (None, "hi")}
    assert refused(json={}) == ("not_multipart", None)
    if kind.required:
        assert refused(files=text) == ("clip_missing", name)
    assert refused(files={name: (None, "no file")}) == ("clip_not_a_file", name)
    assert refused(files={"other": ("a.wav", b"x")}) == ("field_is_file", None)


def test_only_enrolments_have_a_clip_called_audio_sample():
    files = {"audio_sample": ("a.wav", b"x")}
    assert client(form.GENERATE).post("/", files=files).json()[0] == "field_is_file"
    both = files | {"prompt_audio": ("a.wav", b"x")}
    assert client(FORM).post("/", files=both).json()[0] == "field_twice"


def test_a_form_without_a_file_may_be_one_line_and_not_a_long_one():
    def ask(kind: form.Kind, text: str):
        return client(kind).post("/", data={"text": text})

    assert ask(form.GENERATE, "hi").status_code == 200
    assert ask(form.GENERATE, "x" * 100_000).json()[0] == "form_too_long"
    assert ask(FORM, "hi").json()[0] == "not_multipart"
