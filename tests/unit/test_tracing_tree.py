"""A trace read back and drawn."""

import httpx
import pytest

from tracing import vocabulary as words
from tracing.tree import TraceNotFound, fetch, render

T0 = 1_700_000_000_000_000


def span(number: int, name: str, parent: int | None, start_ms: float, ms: float, service: str = "s", **more) -> dict:
    """As Zipkin gives it back: names in lower case."""
    made = {
        "traceId": "a" * 32,
        "id": f"{number:016x}",
        "name": name.lower(),
        "kind": "SERVER",
        "timestamp": T0 + int(start_ms * 1000),
        "duration": int(ms * 1000),
        "localEndpoint": {"serviceName": service},
    }
    if parent is not None:
        made["parentId"] = f"{parent:016x}"
    return made | more


def request() -> list[dict]:
    phase = span(6, "LM_DECODE", 4, 70, 400, words.TTS)
    del phase["kind"]
    return [
        span(5, words.VOCODE_WAV, 1, 650, 150, words.VOCODER),
        phase,
        span(1, "POST /api/generate", None, 0, 812.4, words.INGRESS, tags={"http.status_code": "200"}),
        span(3, words.EXTRACT_SPEAKER, 1, 25, 40, words.EMBEDDING),
        span(2, words.PREPROCESS_AUDIO, 1, 3, 20, words.AUDIO),
        span(4, words.GENERATE_MEL, 1, 66, 580, words.TTS),
    ]


def test_a_request_as_a_tree():
    assert render(request()).splitlines() == [
        "trace " + "a" * 32 + "  6 spans",
        "POST /api/generate  200  cosyvoice3-api         812.4 ms  100 %  ██████████████████████████",
        "├─ PREPROCESS_AUDIO      audio-service           20.0 ms    2 %  █",
        "├─ EXTRACT_SPEAKER       embedding-service       40.0 ms    5 %  █",
        "├─ GENERATE_MEL          tts-service            580.0 ms   71 %    ███████████████████       ◀ slowest stage",
        "│  └─ LM_DECODE          tts-service            400.0 ms   49 %    █████████████",
        "└─ VOCODE_WAV            vocoder-service        150.0 ms   18 %                      █████",
    ]


def test_errors_and_the_service_that_could_not_report_are_shown():
    spans = [
        span(1, "POST /api/generate", None, 0, 10, words.INGRESS, tags={"error": "stage_unavailable"}),
        span(
            2,
            words.PREPROCESS_AUDIO,
            1,
            0,
            2,
            words.AUDIO,
            tags={"error": "too short", "error.type": "input_validation"},
        ),
        span(
            3,
            words.VOCODE_WAV,
            1,
            2,
            8,
            words.INGRESS,
            kind="CLIENT",
            tags={"error": ""},
            remoteEndpoint={"serviceName": words.VOCODER},
        ),
    ]
    lines = render(spans).splitlines()
    assert lines[1].endswith("✗ stage_unavailable")
    assert lines[2].endswith("✗ input_validation: too short")
    assert "cosyvoice3-api → vocoder-service" in lines[3] and lines[3].endswith("◀ slowest stage  ✗ error")


def test_colour_adds_nothing_but_colour():
    import re

    coloured = render(request(), colour=True)
    assert "\x1b[33m" in coloured
    plain = re.sub(r"\x1b\[\d+m", "", coloured)
    assert [line.rstrip() for line in plain.splitlines()] == render(request()).splitlines()


@pytest.mark.parametrize(
    "spans, shown",
    [
        ([], "(no spans)"),
        ([span(2, "lost", 1, 0, 1)], "LOST"),
        ([span(1, "own parent", 1, 0, 1)], "OWN parent"),
        ([{"traceId": "a", "id": "b"}], "?"),
        ([span(1, "a", None, 0, 0)], "0.0 ms"),
        ([span(1, "turn", 2, 0, 1), span(2, "about", 1, 0, 1)], "ABOUT"),
    ],
)
def test_broken_traces_are_drawn_all_the_same(spans, shown):
    assert shown in render(spans)


def test_what_a_server_sends_cannot_steer_the_terminal():
    evil = span(1, "a\x1b[2J\n", None, 0, 1, "s\x07", tags={"error": "\x1b]0;x\x07"})
    assert not set("\x1b\x07") & set(render([evil]))


class Answers:
    """A fake Zipkin that gives one answer after another, the last for ever; and time that runs when slept."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.now = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def fetch(self, **options) -> list[dict]:
        def sleep(seconds: float) -> None:
            self.now += seconds

        client = httpx.Client(transport=httpx.MockTransport(self))
        return fetch("http://zipkin:9411/", "a" * 32, client=client, clock=lambda: self.now, sleep=sleep, **options)


def test_fetch_waits_until_all_spans_are_there():
    answers = Answers(
        httpx.ConnectError("no"),
        httpx.Response(404),
        httpx.Response(200, json=request()[:2]),
        httpx.Response(200, json=request()),
    )
    assert len(answers.fetch(expect=6)) == 6
    assert set(answers.asked) == {f"http://zipkin:9411/api/v2/trace/{'a' * 32}"} and len(answers.asked) == 4


@pytest.mark.parametrize(
    "answer, says",
    [
        (httpx.Response(404), "isn't in Zipkin"),
        (httpx.Response(200, json=request()[:2]), "has 2 of 6 spans"),
        (httpx.Response(500), "answered HTTP 500"),
        (httpx.Response(200, text="<html>"), "didn't answer as Zipkin does"),
        (httpx.ConnectError("no"), "ConnectError.*is it running"),
    ],
)
def test_fetch_gives_up_and_says_why(answer, says):
    answers = Answers(answer)
    with pytest.raises(TraceNotFound, match=says):
        answers.fetch(expect=6, timeout_s=3)
    assert 3 <= answers.now < 3.2
