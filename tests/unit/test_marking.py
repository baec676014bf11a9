"""The mark of synthetic speech: its value, its place in every format, and what a reader finds in any file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from unittest.mock import Mock

import av
import mutagen.aac
import mutagen.flac
import mutagen.id3
import mutagen.oggopus
import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.testclient import TestClient

from cluster import cli
from cluster.demo import CLIP
from deployments.ingress import app
from deployments.ingress.context import RequestContext
from deployments.ingress.routes import verify
from deployments.settings import GraphConfig, Marking, Tracing
from speech import verification
from speech.audio import decode
from speech.encoding import FORMATS, Encoder, encode
from speech.errors import InvalidInput, SpeechError
from speech.mark import Mark
from speech.wav_header import mark_of, wav_header
from tests.helpers import audio_doors
from tests.helpers.serving import tone
from tracing import Tracer
from webui.sound import finished

RATE = 24_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MARK = Mark('示例公司 "Example" = Ltd', TRACE)
SOUND = (0.3 * np.sin(np.arange(RATE * 4) * 0.05)).astype(np.float32)
CONTAINERS = [name for name in FORMATS if name != "pcm"]


def whole(name: str) -> bytes:
    return encode(SOUND, RATE, name, MARK)


def streamed(name: str) -> bytes:
    with Encoder(name, RATE, MARK) as encoder:
        return b"".join([encoder.add(part) for part in np.split(SOUND, 8)]) + encoder.finish()


def by_ffmpeg(data: bytes) -> str | None:
    with av.open(io.BytesIO(data)) as file:
        return file.metadata.get("AIGC") or file.streams.audio[0].metadata.get("AIGC")


def by_mutagen(name: str, data: bytes) -> str:
    """Read the field by a library that has no part in writing the file; it knows no texts in WAV files."""
    if name == "flac":
        return mutagen.flac.FLAC(io.BytesIO(data))["AIGC"][0]
    if name == "opus":
        return mutagen.oggopus.OggOpus(io.BytesIO(data))["AIGC"][0]
    [frame] = mutagen.id3.ID3(io.BytesIO(data)).getall("TXXX:AIGC")
    return frame.text[0]


class TestValue:
    def test_it_has_the_standards_keys_and_a_header_can_hold_it(self):
        value = MARK.value()
        assert json.loads(value) == {
            "Label": "1",
            "ContentProducer": MARK.content_producer,
            "ProduceID": TRACE,
            "ReservedCode1": "",
            "ContentPropagator": "",
            "PropagateID": "",
            "ReservedCode2": "",
        }
        assert value.isascii() and value.isprintable()

    def test_it_comes_back(self):
        assert Mark.parse(MARK.value()) == MARK and MARK.trace_id == TRACE

    def test_another_writers_is_read_too(self):
        nested = json.dumps({"AIGC": {"Label": 1, "ContentProducer": "other", "ProduceID": "A-77", "PropagateID": "x"}})
        found = Mark.parse(nested)
        assert found == Mark("other", "A-77", propagate_id="x") and found.trace_id is None

    @pytest.mark.parametrize(
        "value", [None, "", "no json", "[]", "{}", '{"AIGC": 5}', '{"Label": ""}', '{"Label": [1]}', "[" * 5000]
    )
    def test_anything_else_is_no_mark(self, value):
        assert Mark.parse(value) is None

    def test_half_a_surrogate_pair_in_anothers_mark_can_be_shown(self):
        found = Mark.parse('{"Label": "1", "ContentProducer": "a\\ud800b", "ProduceID": "\\udfff"}')
        assert found is not None and JSONResponse(found.public()).body
        assert (found.content_producer, found.produce_id) == ("a?b", "?")

    @pytest.mark.parametrize("producer", ["", "  ", "a\nb", "x" * 129])
    def test_a_producer_is_a_name_on_one_line(self, producer):
        with pytest.raises(ValidationError):
            Marking(producer=producer)
        assert GraphConfig(marking={"producer": "示例"}).api().marking.producer == "示例"


class TestFiles:
    @pytest.mark.parametrize("make", [whole, streamed])
    @pytest.mark.parametrize("name", CONTAINERS)
    def test_every_format_has_it_where_other_programs_look(self, name, make: Callable[[str], bytes]):
        data = make(name)
        assert by_ffmpeg(data) == MARK.value()
        if name != "wav":
            assert by_mutagen(name, data) == MARK.value()
        found = verification.read(data)
        assert found.mark == MARK and found.seconds == pytest.approx(4, abs=0.15)
        assert found.rate == (48_000 if name == "opus" else RATE) and found.samples.ndim == 1

    @pytest.mark.parametrize("name", CONTAINERS)
    def test_a_stream_begins_with_it(self, name):
        with Encoder(name, RATE, MARK) as encoder:
            first = encoder.add(SOUND[: RATE // 4])
        assert MARK.value().encode() in first

    @pytest.mark.parametrize("name", CONTAINERS)
    def test_a_file_that_is_cut_off_keeps_it(self, name):
        data = whole(name)
        assert verification.read(data[: len(data) // 2]).mark == MARK

    @pytest.mark.parametrize("name", CONTAINERS)
    @pytest.mark.parametrize("make", [whole, streamed])
    def test_it_is_still_a_clip(self, name, make):
        assert decode(make(name)).seconds == pytest.approx(4, abs=0.15)

    @pytest.mark.parametrize("name", CONTAINERS)
    def test_what_is_not_synthetic_has_none(self, name):
        with Encoder(name, RATE, None) as encoder:
            data = encoder.add(SOUND) + encoder.finish()
        for unmarked in (data, encode(SOUND, RATE, name, None)):
            assert b"AIGC" not in unmarked and verification.read(unmarked).mark is None

    @pytest.mark.parametrize("producer", ["a", "ab"])  # an even and an odd number of bytes in the chunk
    def test_a_wav_files_chunks_are_even_and_it_keeps_the_mark_when_its_length_is_known(self, producer):
        mark, pcm = Mark(producer, TRACE), b"\1\0" * 50
        data = wav_header(RATE, mark, len(pcm)) + pcm
        assert finished(wav_header(RATE, mark) + pcm, "wav") == data and mark_of(data) == mark
        assert len(wav_header(RATE, mark)) % 2 == 0 and by_ffmpeg(data) == mark.value()

    @pytest.mark.parametrize(
        "data", [b"", b"RIFF", b"ID3 and no wav", wav_header(RATE, MARK)[:60], wav_header(RATE, None, 0)]
    )
    def test_a_header_without_a_whole_mark_has_none(self, data):
        assert mark_of(data) is None

    def test_it_is_found_in_m4a_which_others_make(self, tmp_path):
        file = tmp_path / "other.m4a"
        with av.open(str(file), "w", format="mp4", options={"movflags": "use_metadata_tags"}) as out:
            out.metadata["AIGC"] = MARK.value()
            track = out.add_stream("aac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(SOUND[None], format="fltp", layout="mono")
            frame.sample_rate = RATE
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
        found = verification.read(file.read_bytes())
        assert found.mark == MARK and found.format == "mp4"


class TestRefusals:
    @pytest.mark.parametrize(
        "data, code, remedy",
        [
            (b"", "file_empty", "Send the audio itself"),
            (b"\1\2" * 50_000, "not_audio", "X-AIGC"),
            (b"<html>", "not_audio", "X-AIGC"),
            (b"fLaC" + bytes(500), "not_audio", "damaged"),
            (bytes(verification.MAX_BYTES + 1), "file_too_large", "head -c 20MB"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_told_why_and_what_to_do(self, data, code, remedy):
        with pytest.raises(InvalidInput) as caught:
            verification.read(data)
        assert (caught.value.param, caught.value.code) == ("file", code) and remedy in caught.value.message


class Api:
    """The ingress as the route sees it."""

    def __init__(self, producer: str = MARK.content_producer) -> None:
        tracing = Tracing(zipkin_url="http://zipkin:9411")
        self.config = GraphConfig(marking=Marking(producer=producer), tracing=tracing).api()
        self.requests: list[RequestContext] = []
        self.sure: float | None = None

    async def find_watermark(self, samples: np.ndarray, rate: int, ctx: RequestContext) -> float | None:
        assert samples.ndim == 1 and samples.dtype == np.float32 and rate > 0
        return self.sure

    def client(self) -> TestClient:
        application, tracer = FastAPI(), Tracer("cosyvoice3-api")
        verify.add(application, self)

        @application.middleware("http")
        async def context(request: Request, go_on):
            root = tracer.server("POST /v1/audio/verify", parent=None)
            request.state.context = RequestContext(tracer, root, 60.0, root.start_ns)
            self.requests.append(request.state.context)
            return await go_on(request)

        @application.exception_handler(SpeechError)
        async def failed(request: Request, error: SpeechError):
            return JSONResponse(error.body(), error.status)

        return TestClient(application)


def ask(api: Api, data: bytes, field: str = "file", **more: str):
    return api.client().post("/v1/audio/verify", files={field: ("private.wav", data)}, data=more)


class TestRoute:
    def test_it_tells_the_mark_and_the_trace_and_its_own_trace_tells_what_the_file_was(self):
        api = Api()
        assert ask(api, whole("flac")).json() == {
            "object": "audio.verification",
            "marked": True,
            "metadata": {
                "label": "1",
                "content_producer": MARK.content_producer,
                "produce_id": TRACE,
                "content_propagator": "",
                "propagate_id": "",
            },
            "watermark": None,
            "ours": True,
            "trace_id": TRACE,
            "trace_url": f"http://zipkin:9411/zipkin/traces/{TRACE}",
            "format": "flac",
            "seconds": 4.0,
        }
        tags = api.requests[0].finish(200)[0].tags
        assert (tags["audio.format"], tags["audio.sample_rate"], tags["audio.duration"]) == ("flac", 24_000, 4.0)

    def test_anothers_mark_is_shown_without_a_trace(self):
        found = ask(Api("Somebody else"), whole("wav")).json()
        assert found["marked"] and not found["ours"] and found["trace_id"] is found["trace_url"] is None
        assert found["metadata"]["produce_id"] == TRACE

    def test_a_recording_has_none(self):
        found = ask(Api(), tone()).json()
        assert (found["marked"], found["metadata"], found["trace_id"]) == (False, None, None)

    @pytest.mark.parametrize("sure, found", [(0.97, True), (0.03, False)])
    def test_a_watermark_alone_is_a_mark_too(self, sure, found):
        api = Api()
        api.sure = sure
        told = ask(api, tone()).json()
        assert (told["marked"], told["watermark"]) == (found, {"found": found, "confidence": sure})

    @pytest.mark.parametrize(
        "data, field, more, code, remedy",
        [
            (b"", "file", {}, "file_empty", "Send the audio itself"),
            (b"no audio", "file", {}, "not_audio", "X-AIGC"),
            (bytes(verification.MAX_BYTES + 1), "file", {}, "file_too_large", "head -c 20MB"),
            (b"x", "audio", {}, "field_is_file", "Only file is a file"),
            (b"x", "file", {"text": "hello"}, "field_unknown", "takes 'file' alone"),
        ],
    )
    def test_a_wrong_request_is_told_why_and_what_to_do(self, data, field, more, code, remedy):
        answer = ask(Api(), data, field, **more)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, code) and remedy in error["message"]
        assert "private" not in answer.text and "clip" not in error["message"]

    def test_a_form_without_the_file_says_what_to_send(self):
        answer = Api().client().post("/v1/audio/verify", files={"other": (None, b"x")})
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("clip_missing", "file") and "the audio to look at" in error[
            "message"
        ]


class TestCommand:
    def verified(self, tmp_path, capsys, data: bytes, *options: str) -> tuple[int, str, str]:
        file = tmp_path / "speech"
        file.write_bytes(data)
        code = cli.main(["verify", str(file), "--run-dir", str(tmp_path), *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    def test_it_prints_the_mark_and_the_trace(self, tmp_path, capsys):
        code, out, _ = self.verified(tmp_path, capsys, whole("mp3"))
        assert code == 0 and f"trace: {TRACE}" in out and MARK.content_producer in out

    def test_it_prints_json(self, tmp_path, capsys):
        code, out, _ = self.verified(tmp_path, capsys, streamed("opus"), "--json")
        assert code == 0 and json.loads(out)["trace_id"] == TRACE

    def test_a_file_without_a_mark_has_a_status_of_its_own(self, tmp_path, capsys):
        code, out, _ = self.verified(tmp_path, capsys, CLIP.read_bytes())
        assert code == 3 and "no mark" in out and "watermark: none" in out

    def test_without_the_detectors_package_it_says_how_to_get_it(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        code, out, _ = self.verified(tmp_path, capsys, CLIP.read_bytes())
        assert code == 3 and "not looked for" in out and "requirements-watermark.txt" in out

    def test_what_cannot_be_read_is_an_error_with_a_remedy(self, tmp_path, capsys):
        code, _, err = self.verified(tmp_path, capsys, b"\0\0" * 1000)
        assert code == 1 and "X-AIGC" in err
        assert cli.main(["verify", str(tmp_path / "none.wav"), "--run-dir", str(tmp_path)]) == 1
        assert "Name one audio file" in capsys.readouterr().err


class TestDoors:
    def test_every_route_is_known_to_give_speech_or_not(self):
        found = audio_doors.doors(app.build(Mock()).routes)
        assert found == audio_doors.SPEECH | audio_doors.OTHER
        assert not audio_doors.SPEECH & audio_doors.OTHER

    def test_a_new_route_is_in_neither_list(self):
        application = app.build(Mock())
        application.add_api_route("/v1/audio/whisper", lambda: None)
        assert audio_doors.doors(application.routes) - audio_doors.SPEECH - audio_doors.OTHER

    def test_so_is_every_route_of_the_page(self):
        from webui import site

        found = audio_doors.doors(site.build("http://127.0.0.1:9").routes)
        assert found == audio_doors.PAGE_SPEECH | audio_doors.PAGE_OTHER
