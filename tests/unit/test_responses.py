"""Audio as an HTTP response, from a stream of the test's own: files, chunks, and both forms of events."""

import asyncio
import base64
import json

import numpy as np
import pytest

from deployments.ingress import responses
from deployments.ingress.context import RequestContext
from deployments.ingress.routes.openai import EventFormat as OpenAiEventFormat
from speech import requests
from speech.errors import InvalidInput
from speech.mark import Mark
from speech.words import AudioPart, Phoneme, Word
from tracing import Tracer

RATE = 24_000
CHUNK = np.full(RATE // 10, 1000, np.int16)
MARK = Mark("Example", "ab" * 16)


def request(**fields: str) -> requests.SpeechRequest:
    return requests.parse({"text": "Hello there", "dialect": "en-US", "response_format": "pcm"} | fields)


def new_context() -> RequestContext:
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    return RequestContext(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)


async def audio(chunks: int, error: Exception | None = None, ctx: RequestContext | None = None):
    if ctx is not None:
        with ctx.progress("GENERATE_MEL", "tts-service"):
            await asyncio.sleep(0)
    for _ in range(chunks):
        yield AudioPart(CHUNK)
    if error is not None:
        raise error


def events_of(body: list[bytes]) -> list[tuple[str | None, dict]]:
    found = []
    for event in b"".join(body).decode().strip().split("\n\n"):
        *head, data = event.split("\n")
        found.append((head[0].removeprefix("event: ") if head else None, json.loads(data.removeprefix("data: "))))
    return found


async def read_events(event_format, ctx: RequestContext, stream) -> list[tuple[str | None, dict]]:
    response = await responses.events(request(), stream, RATE, ctx, event_format, MARK)
    return events_of([part async for part in response.body_iterator])


def test_a_whole_answer_is_one_file():
    response = asyncio.run(responses.whole(request(response_format="wav"), AudioPart(CHUNK), RATE, MARK))
    assert response.media_type == "audio/wav" and response.body.endswith(CHUNK.tobytes())


def test_a_raw_stream_is_the_file_in_chunks():
    async def scenario():
        ctx = new_context()
        response = await responses.stream(request(), audio(3), RATE, ctx, MARK)
        assert ctx.streaming and response.headers["cache-control"] == "no-store"
        return b"".join([part async for part in response.body_iterator])

    assert asyncio.run(scenario()) == CHUNK.tobytes() * 3


def test_our_events_tell_stages_audio_and_an_end():
    async def scenario():
        ctx = new_context()
        event_format = responses.EventFormat(lambda ctx: f"http://zipkin/{ctx.trace_id}")
        return ctx, await read_events(event_format, ctx, audio(2, ctx=ctx))

    ctx, events = asyncio.run(scenario())
    assert [name for name, _ in events] == ["stage", "stage", "audio", "audio", "done"]
    assert [data["state"] for name, data in events if name == "stage"] == ["started", "done"]
    assert b"".join(base64.b64decode(data["audio"]) for _, data in events[2:4]) == CHUNK.tobytes() * 2
    done = events[-1][1]
    assert (done["seconds"], done["trace_id"], done["trace_url"]) == (
        0.2,
        ctx.trace_id,
        f"http://zipkin/{ctx.trace_id}",
    )


def test_openais_events_count_characters_in_and_25_tokens_a_second_out():
    events = asyncio.run(read_events(OpenAiEventFormat(), new_context(), audio(8)))
    assert {name for name, _ in events} == {None}
    assert [data["type"] for _, data in events] == ["speech.audio.delta"] * 8 + ["speech.audio.done"]
    assert events[-1][1]["usage"] == {"input_tokens": 11, "output_tokens": 20, "total_tokens": 31}


async def late(delays: list[float]):
    """Yield 0.1 s of audio after each delay."""
    for delay_s in delays:
        await asyncio.sleep(delay_s)
        yield AudioPart(CHUNK)


async def body_of(kind: str, stream, ctx: RequestContext, reader_s: float = 0.0) -> None:
    """Read a stream to its end; the reader takes `reader_s` for each part."""
    if kind == "raw":
        response = await responses.stream(request(), stream, RATE, ctx, MARK)
    else:
        format = OpenAiEventFormat() if kind == "openai" else responses.EventFormat(lambda ctx: None)
        response = await responses.events(request(), stream, RATE, ctx, format, MARK)
    async for _ in response.body_iterator:
        await asyncio.sleep(reader_s)


@pytest.mark.parametrize("kind", ["raw", "sse", "openai"])
def test_a_stream_that_falls_behind_says_so_on_its_root(kind):
    ctx = new_context()
    asyncio.run(body_of(kind, late([0.0, 0.0, 0.5, 0.0]), ctx))
    [root] = ctx.finish(200)
    assert root.tags["stream.continuous"] == "false" and root.tags["stream.seconds"] == 0.4
    assert 250 <= root.tags["stream.underrun_ms"] <= 450  # 0.2 s of audio bridge 0.5 s
    [began] = [at for at, text in root.events if text == "gap began"]
    assert 0.15e9 < began - root.start_ns < 0.5e9, "where the audio had ended, not where it went on"


@pytest.mark.parametrize("kind", ["raw", "sse", "openai"])
def test_a_slow_reader_makes_no_gap(kind):
    ctx = new_context()
    asyncio.run(body_of(kind, late([0.0] * 4), ctx, reader_s=0.2))
    [root] = ctx.finish(200)
    assert root.tags["stream.continuous"] == "true" and root.tags["stream.underrun_ms"] == 0


def test_only_so_many_gaps_are_annotated():
    ctx = new_context()
    asyncio.run(body_of("raw", late([0.11] * 12), ctx))
    [root] = ctx.finish(200)
    assert ctx.continuity.gaps > 8 and len([text for _, text in root.events if text == "gap began"]) == 8


def test_a_whole_file_says_nothing_of_gaps():
    ctx = new_context()
    asyncio.run(responses.whole(request(), AudioPart(CHUNK), RATE, MARK))
    assert "stream.continuous" not in ctx.finish(200)[0].tags


@pytest.mark.parametrize(
    "event_format, param",
    [(responses.EventFormat(lambda ctx: None), "prompt_audio"), (OpenAiEventFormat(), "ref_audio")],
)
def test_an_error_after_the_beginning_is_the_last_event_in_the_clients_words(event_format, param):
    ctx = new_context()
    error = InvalidInput("The clip is silent.", param="prompt_audio")
    events = asyncio.run(read_events(event_format, ctx, audio(1, error)))
    assert events[-1][1]["error"]["param"] == param and ctx.error is error


def test_an_error_before_the_beginning_is_raised():
    with pytest.raises(InvalidInput):
        asyncio.run(responses.stream(request(), audio(0, InvalidInput("No.")), RATE, new_context(), MARK))


def test_a_defect_in_a_stream_is_not_quoted(caplog):
    ctx = new_context()
    events = asyncio.run(read_events(OpenAiEventFormat(), ctx, audio(1, KeyError("secret"))))
    assert events[-1][1]["error"]["type"] == "internal" and ctx.trace_id in caplog.text
    assert "secret" not in json.dumps(events) + caplog.text


WORD = Word("Hello", 0, 5, 0.01, 0.25, (Phoneme("h", 0.01, 0.1), Phoneme("ˈO", 0.1, 0.25)))
TOLD = {"text": "Hello", "start": 0, "end": 5, "start_s": 0.01, "end_s": 0.25}


async def timed(words: int):
    for number in range(3):
        yield AudioPart(CHUNK, (WORD,) if number < words else ())
    yield AudioPart(CHUNK[:0], (WORD.moved(1.0),))


@pytest.mark.parametrize("response_format", ["pcm", "mp3", "opus"])
def test_words_come_with_the_audio_that_completes_them_and_none_is_lost(response_format):
    """Whatever the format holds back, and if the last one comes without audio."""
    asked = request(timestamps="word", response_format=response_format, stream_format="sse")

    async def scenario(event_format):
        response = await responses.events(asked, timed(2), RATE, new_context(), event_format, MARK)
        found = events_of([part async for part in response.body_iterator])
        return [word for _, data in found if "audio" in data for word in data["timestamps"]]

    for event_format in (responses.EventFormat(lambda ctx: None), OpenAiEventFormat()):
        words = asyncio.run(scenario(event_format))
        assert [word["start_s"] for word in words] == [0.01, 0.01, 1.01]
        assert words[0]["phonemes"] == [
            {"symbol": "h", "start_s": 0.01, "end_s": 0.1},
            {"symbol": "ˈO", "start_s": 0.1, "end_s": 0.25},
        ]


def test_events_without_timestamps_are_as_they_were():
    events = asyncio.run(read_events(responses.EventFormat(lambda ctx: None), new_context(), timed(2)))
    assert all("timestamps" not in data for _, data in events)


def test_a_whole_answer_with_timestamps_is_json():
    part = AudioPart(CHUNK, (Word("Hello", 0, 5, 0.01, 0.25),))
    response = asyncio.run(responses.whole(request(response_format="wav", timestamps="word"), part, RATE, MARK))
    assert response.media_type == "application/json" and "x-aigc" in response.headers
    body = json.loads(response.body)
    assert base64.b64decode(body.pop("audio")).endswith(CHUNK.tobytes())
    assert body == {"format": "wav", "media_type": "audio/wav", "seconds": 0.1, "timestamps": [TOLD]}


def test_a_raw_stream_refuses_timestamps_with_a_remedy():
    with pytest.raises(InvalidInput, match="stream_format=sse") as refused:
        request(timestamps="word", stream_format="audio")
    assert (refused.value.param, refused.value.code) == ("timestamps", "timestamps_in_raw_stream")
    with pytest.raises(InvalidInput, match="part, character, word, phoneme"):
        request(timestamps="sentence")


@pytest.mark.parametrize("kind", ["audio", "sse"])
def test_a_client_that_leaves_before_the_first_part_ends_the_work_behind_it(kind):
    made: list[str] = []

    async def endless():
        try:
            while True:
                await asyncio.sleep(0.001)
                made.append("part")
                yield AudioPart(CHUNK)
        finally:
            made.append("ended")

    async def run() -> int:
        if kind == "audio":
            response = await responses.stream(request(), endless(), RATE, new_context(), MARK)
        else:
            response = await responses.events(request(), endless(), RATE, new_context(), OpenAiEventFormat(), MARK)

        async def gone() -> dict:
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            await asyncio.sleep(0)

        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, send)
        return len(made)

    ended_at = asyncio.run(run())
    assert made[ended_at - 1] == "ended"
