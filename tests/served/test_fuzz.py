"""Requests nobody would think of, made from the service's own description: `/openapi.json` is true, and nothing fails.

First good bodies, each field of theirs in turn left out, or replaced by a word that no answer may repeat. Then what
schemathesis makes of the description, or of its opposite; half of those bodies are good ones with some of their fields
from there, which come further. Many have a wrong content type, or headers that mean something.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from schemathesis.transport.serialization import Binary

from config.routes import SPEECH
from tests.helpers.serving import App, tone

CLIP = tone(seconds=3.5, rate=16_000)
GOOD = {
    "text": "Hello",
    "tts_text": "Hello",
    "input": "Hello",
    "items": [{"input": "Hello"}],
    "dialect": "en-US",
    "prompt_audio": CLIP,
    "prompt_wav": CLIP,
    "audio_sample": CLIP,
    "file": CLIP,
    "prompt_text": "Hello there",
    "instruct_text": "speak slowly",
    "ref_audio": "data:audio/wav;base64," + base64.b64encode(CLIP).decode(),
    "name": "fuzzed",
    "consent": "Agreed.",
    "spk_id": "nobody",
}
CANARY = "canary-8143"
ALWAYS = {"prompt_audio", "ref_audio", "dialect", "file"}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
JUNK = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=("Cc",)), max_size=60)
HEADERS = {
    "Content-Type": st.sampled_from(
        [
            "text/plain",
            "application/xml",
            "multipart/form-data",
            "application/json",
            "multipart/form-data; boundary=",
            "application/x-www-form-urlencoded",
            "application/json; charset=utf-16",
        ]
    )
    | JUNK,
    "traceparent": st.just("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01") | JUNK,
    "b3": st.sampled_from(["0", "d", "1"]) | JUNK,
    "X-B3-TraceId": JUNK,
    "X-B3-Sampled": JUNK,
    "tracestate": JUNK,
    "X-Request-Id": JUNK,
    "X-Request-Timeout-Seconds": st.sampled_from(["0", "-1", "0.001", "nan"]) | JUNK,
    "Authorization": JUNK | JUNK.map("Bearer {}".format),
    "X-API-Key": JUNK,
    "X-User-Id": JUNK,
    "Cookie": JUNK,
    "Host": st.just("elsewhere.example") | JUNK,
    "X-Forwarded-For": JUNK,
    "X-Forwarded-Prefix": JUNK,
    "Accept": st.sampled_from(["text/html", "audio/*;q=0"]) | JUNK,
    "Accept-Encoding": JUNK,
    "Content-Encoding": st.sampled_from(["gzip", "br"]),
    "Range": st.just("bytes=0-3"),
    "If-None-Match": st.just("*"),
}
#: Of each operation: of those with a body, and of the others.
REQUESTS = {True: 18, False: 6}
#: Methods that no path has.
NEVER = ("PUT", "PATCH", "TRACE", "OPTIONS", "PROPFIND")


@pytest.fixture
def session(fast) -> Iterator[requests.Session]:
    """Deletes the voices that were stored meanwhile."""
    with requests.Session() as session:
        session.trust_env = False
        before = _voices(fast, session)
        yield session
        for voice in _voices(fast, session) - before:
            session.delete(f"{fast.url}/v1/audio/voices/{voice}", timeout=30)


def _voices(app: App, session: requests.Session) -> set[str]:
    answer = session.get(f"{app.url}/v1/audio/voices", timeout=30)
    return {voice["id"] for voice in answer.json()["data"]}


@pytest.fixture
def schema(fast):
    return schemathesis.openapi.from_url(f"{fast.url}/openapi.json")


@st.composite
def cases(draw, operation) -> Case:
    mode = draw(st.sampled_from(MODES if operation.body else MODES[:1]))
    case = draw(operation.as_strategy(generation_mode=mode))
    if isinstance(case.body, dict) and draw(st.booleans()):
        case.body = _nearly_good(operation, case, draw)
    names = draw(st.sets(st.sampled_from(sorted(HEADERS)), max_size=3)) if draw(st.booleans()) else ()
    for name in names:
        case.headers[name] = draw(HEADERS[name]).encode("latin-1")
    return case


def _nearly_good(operation, case: Case, draw) -> dict:
    kept = draw(st.sets(st.sampled_from(sorted(case.body)), max_size=2)) if case.body else ()
    return _good(_body(operation, case.media_type)) | {name: case.body[name] for name in kept}


def _body(operation, media_type: str) -> dict:
    return operation.definition.raw["requestBody"]["content"][media_type]["schema"]


def _good(body: dict) -> dict:
    wanted = (set(body["required"]) | ALWAYS) & set(body["properties"])
    return {name: GOOD[name] for name in sorted(wanted)}


def one_field_at_a_time(operation) -> Iterator[Case]:
    """A good request, and it without each of its fields, and with each field wrong."""
    place = {name: CANARY for name in re.findall(r"{(\w+)}", operation.path)}
    if place:
        yield operation.Case(path_parameters=place)
    for media_type in operation.definition.raw.get("requestBody", {"content": ()})["content"]:
        body = _body(operation, media_type)
        good = _good(body)
        bodies = [good, *({other: good[other] for other in good if other != name} for name in good)]
        bodies += [good | {name: CANARY} for name in (*body["properties"], CANARY)]
        for wrong in bodies:
            yield operation.Case(body=wrong, media_type=media_type, path_parameters=dict(place))


@pytest.mark.proof
def test_no_request_that_fits_or_misses_the_description_fails(fast, schema, session):
    operations = [found.ok() for found in schema.get_all_operations()]
    ours = json.dumps(schema.raw_schema) + session.get(f"{fast.url}/api/dialects", timeout=30).text
    answered: Counter[tuple[str, int]] = Counter()

    def send(case: Case) -> None:
        answer = case.call(base_url=fast.url, session=session, timeout=30)
        answered[case.operation.label, answer.status_code] += 1
        check(case, answer, ours)
        case.validate_response(
            answer,
            checks=[
                not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_headers_conformance,
                checks.response_schema_conformance,
            ],
        )

    for operation in operations:
        for case in one_field_at_a_time(operation):
            send(case)
        settings(
            max_examples=REQUESTS[bool(operation.body)],
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(cases(operation))(send))()
    assert sum(answered.values()) >= 200
    assert {label for label, _ in answered} == {operation.label for operation in operations}
    accepted = {label for label, status in answered if status in (200, 201)}
    # The others ask for a voice or a model that isn't there, or for a WebSocket as if it were a page.
    for operation in operations:
        assert operation.label in accepted or re.search(r"\{|inference_(sft|instruct)$|/stream$", operation.path), (
            operation.label
        )


def check(case: Case, answer, ours: str) -> None:
    """`ours`: all the words that an answer may have in common with a request."""
    assert str(answer.status_code) in case.operation.definition.raw["responses"], answer.status_code
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-trace-id"][0])
    if answer.status_code < 400:
        return
    assert answer.status_code < 500 or (answer.status_code == 503 and answer.headers["retry-after"]), answer.text
    check_error(answer.json())
    assert CANARY not in answer.text and CANARY not in str(answer.headers)
    told = json.dumps(answer.json(), ensure_ascii=False)
    assert not [text for text in _texts(case) if len(text) > 4 and text in told and text not in ours]


def check_error(body: dict) -> None:
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and body["error"]["type"]


def _texts(case: Case) -> Iterator[str]:
    """Describe what was sent, piece by piece."""
    waiting = [case.body, case.path_parameters, case.query, list(case.headers.values())]
    while waiting:
        found = waiting.pop()
        found = found.data if isinstance(found, Binary) else found
        if isinstance(found, dict):
            waiting += [*found, *found.values()]
        elif isinstance(found, (list, tuple)):
            waiting += found
        elif isinstance(found, bytes) and len(found) < 1000:
            yield found.decode("latin-1")
        elif isinstance(found, (str, int, float)):
            yield str(found)


def test_a_path_names_all_its_methods_to_whoever_tries_another(fast, schema, session):
    for path, methods in schema.raw_schema["paths"].items():
        there = {method.upper() for method in methods}
        if "GET" in there and path not in SPEECH:
            there.add("HEAD")  # goes with GET, and is described nowhere by itself
        for method in set(NEVER) - there:
            answer = session.request(method, fast.url + path.replace("{", "").replace("}", ""), timeout=30)
            assert answer.status_code == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) == there
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-trace-id"])
            check_error(answer.json())


@pytest.mark.parametrize(
    "path", ["/health/", "//health", "/v1/models/", "/v1/audio/voices/%2e%2e%2f", "/v1/%00", "/%ff"]
)
def test_a_path_that_is_nearly_one_is_none(fast, session, path):
    """And not a redirect, which would quote the path and the Host header."""
    answer = session.get(fast.url + path, headers={"Host": "elsewhere.example"}, allow_redirects=False, timeout=30)
    assert answer.status_code == 404
    check_error(answer.json())


def test_the_description_is_a_sound_one(schema):
    schema.validate()
    operations = [operation for path in schema.raw_schema["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) > 15
    for operation in operations:
        for status, answer in operation["responses"].items():
            if status == "101":  # a WebSocket: its utterances are traces, and the session is none
                continue
            assert "X-Trace-Id" in answer["headers"], (operation["operationId"], status)
