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


def part(headers: str, content: bytes = b"the clip") -> bytes:
    return b"--abc\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n"


def ask(*parts: bytes):
    return client(form.GENERATE).post(
        "/", content=b"".join(parts) + b"--abc--\r\n", headers={"Content-Type": "multipart/form-data; boundary=abc"}
    )


TEXT = part('Content-Disposition: form-data; name="text"', b"hi")


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Disposition: form-data; name=\"prompt_audio\"; filename*=utf-8''%E5%BD%95%E9%9F%B3.wav",
        "content-disposition: form-data; name=prompt_audio; FILENAME*=UTF-8''a.wav",
        "Content-Disposition: form-data; name=\"prompt_audio\"; filename*0*=utf-8''a; filename*1*=.wav",
        'Content-Disposition: form-data; name="prompt_audio"; filename=""',
        'Content-Disposition: form-data; name="prompt_audio"\r\nContent-Type: audio/wav',
        'Content-Type: audio/webm;codecs=opus\r\nContent-Disposition: form-data; name="prompt_audio"',
        'Content-Disposition: form-data; name="prompt_audio"\r\nContent-Type: application/octet-stream',
    ],
)
def test_a_file_is_one_however_its_name_is_written(headers):
    long = bytes(300_000)  # no text field may be so long
    answer = client(form.GENERATE).post(
        "/",
        content=part(headers, long) + TEXT + b"--abc--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=abc"},
    )
    assert answer.json() == [{"text": "hi"}, long.decode()]


def test_a_text_that_speaks_of_a_file_name_is_a_text():
    answer = ask(part('Content-Disposition: form-data; name="text"', b"; filename*=utf-8''a.wav"))
    assert answer.json() == [{"text": "; filename*=utf-8''a.wav"}, ""]
    typed = ask(part('Content-Disposition: form-data; name="text"\r\nContent-Type: text/plain; charset=utf-8', b"hi"))
    assert typed.json() == [{"text": "hi"}, ""]


def test_a_text_field_that_comes_as_a_file_is_refused_in_either_way():
    named = ask(part("Content-Disposition: form-data; name=\"text\"; filename*=utf-8''a.txt"))
    assert named.status_code == 400 and named.json()[0] == "field_is_file"


def test_starlettes_parser_still_has_what_ours_leans_on():
    """`_Parser` reads and sets the part that Starlette's parser is at."""
    parser = form._Parser({}, None)
    parser.on_part_begin()
    assert parser._current_part.content_disposition is None and parser._current_part.item_headers == []


def _one_text(text: bytes, charset: str = "") -> dict:
    return {
        "content": b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n' + text + b"\r\n--b--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=b" + (f"; charset={charset}" if charset else "")},
    }


def test_a_text_is_read_in_its_charset():
    ask = client(form.GENERATE).post
    assert ask("/", **_one_text("早上好".encode())).json()[0] == {"text": "早上好"}
    for charset in ("GBK", '"UTF-8"'):
        sent = _one_text("早上好".encode(charset.strip('"')), charset)
        assert ask("/", **sent).json()[0] == {"text": "早上好"}


@pytest.mark.parametrize("text, charset", [("早上好".encode("gbk"), ""), (b"caf\xe9", ""), (b"\x80", "ascii")])
def test_a_text_in_another_charset_is_refused_and_not_spoken_as_other_words(text, charset):
    answer = client(form.GENERATE).post("/", **_one_text(text, charset))
    assert answer.status_code == 400 and answer.json()[0] == "form_not_unicode" and "UTF-8" in answer.json()[2]


@pytest.mark.parametrize(
    "charset", ["nope", "idna", "punycode", "undefined", "unicode_escape", "base64", "rot13", "\x00"]
)
def test_a_charset_that_is_none_is_refused(charset):
    answer = client(form.GENERATE).post("/", **_one_text(b"abc\x80", charset))
    assert answer.status_code == 400 and answer.json()[0] == "charset_unknown" and "UTF-8" in answer.json()[2]
