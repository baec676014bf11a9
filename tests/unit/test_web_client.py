"""The HTTP client that the web page and `say` share: events out of bytes, files out of chunks, errors as they are."""

from __future__ import annotations

import io
import time

import pytest
import soundfile

from cluster import ports
from speech.wav_header import mark_of, wav_header
from tests.helpers.standin_api import MARK, RATE, TRACE
from webui import sound, sse
from webui.client import Api, ApiError, Audio, Clip, Done, Speech, Stage

CLIP = Clip("clip.wav", b"a clip")


def ask(api, **fields) -> list:
    with Api(api.url) as client:
        return list(client.generate(Speech(**{"text": "Hello", "dialect": "en-US", "clip": CLIP} | fields)))


class TestEvents:
    @pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000])
    def test_they_are_the_same_however_the_bytes_arrive(self, cut):
        text = (
            'event: stage\r\ndata: {"a":\r\ndata: 1}\r\n\r\n: a comment\n\ndata: 没有\u2028名字\n\nevent: x\n\n'
        ).encode()
        chunks = [text[at : at + cut] for at in range(0, len(text), cut)]
        assert list(sse.events(chunks)) == [("stage", '{"a":\n1}'), ("message", "没有\u2028名字")]

    def test_one_that_is_cut_off_does_not_count(self):
        assert list(sse.events([b"event: done\ndata: {}\n"])) == []

    def test_one_without_an_end_is_not_kept_in_memory(self):
        endless = (b"x" * 2**20 for _ in range(1000))
        with pytest.raises(ValueError):
            list(sse.events(endless))


class TestSound:
    def test_a_streamed_wav_file_gets_its_length(self):
        pcm = bytes(range(256)) * 10
        for mark in (None, MARK):
            whole = sound.wav(pcm, RATE, mark)
            assert sound.finished(wav_header(RATE, mark) + pcm, "wav") == whole and mark_of(whole) == mark
            assert soundfile.info(io.BytesIO(whole)).frames == len(pcm) // 2

    def test_one_with_more_chunks_too(self):
        whole = sound.wav(b"\1\0" * 50, RATE, None)
        with_list = whole[:12] + b"LIST" + (3).to_bytes(4, "little") + b"abc\0" + whole[12:]
        streamed = with_list.replace((100).to_bytes(4, "little") + b"\1\0", b"\xff" * 4 + b"\1\0")
        assert soundfile.info(io.BytesIO(sound.finished(streamed, "wav"))).frames == 50

    @pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"ID3 no wav at all"])
    def test_what_is_no_wav_file_stays_as_it_is(self, content):
        assert sound.finished(content, "wav") == content

    def test_another_format_is_not_touched(self):
        streamed = b"RIFF\xff\xff\xff\xffWAVEdata\xff\xff\xff\xff1234"
        assert sound.finished(streamed, "flac") == streamed


class TestGenerate:
    def test_stages_audio_and_the_end_come_in_order(self, api):
        events = ask(api, mode="instruct", style_instruction="slowly", speed=1.2, seed=3, long_form=True)
        assert [event.stage for event in events if isinstance(event, Stage) and event.state == "done"] == [
            "PREPROCESS_AUDIO",
            "EXTRACT_SPEAKER",
            "GENERATE_MEL",
            "VOCODE_WAV",
        ]
        assert isinstance(events[-1], Done) and events[-1].seconds == 2.0
        assert events[-1].trace_url == f"{api.zipkin}/zipkin/traces/{TRACE}"
        assert [one.service for one in events[-1].stages][-1] == "vocoder-service"
        wav = b"".join(event.content for event in events if isinstance(event, Audio))
        assert soundfile.info(io.BytesIO(sound.finished(wav, "wav"))).duration == 2.0
        assert api.asked == [
            {
                "text": "Hello",
                "dialect": "en-US",
                "mode": "instruct",
                "style_instruction": "slowly",
                "speed": "1.2",
                "seed": "3",
                "long_form": "true",
                "response_format": "wav",
                "stream_format": "sse",
                "prompt_audio": {"name": "clip.wav", "bytes": 6},
            }
        ]

    def test_a_stored_voice_needs_no_file(self, api):
        ask(api, clip=None, voice="anna", dialect=None)
        assert api.asked[0]["voice"] == "anna"
        assert not {"prompt_audio", "dialect"} & api.asked[0].keys()

    def test_closing_it_cancels_the_request(self, api):
        api.chunks = 1000
        with Api(api.url) as client:
            events = client.generate(Speech(text="Hello", clip=CLIP))
            next(event for event in events if isinstance(event, Audio))
            events.close()
        eventually(lambda: api.cancelled == 1)

    def test_an_error_before_the_audio_is_told_as_it_is(self, api):
        api.refusal = (
            400,
            {
                "message": "Audio sample rate 8000Hz, minimum required 16000Hz",
                "param": "prompt_audio",
                "code": "sample_rate_too_low",
                "type": "input_validation",
            },
        )
        with pytest.raises(ApiError, match="8000Hz") as caught:
            ask(api)
        assert (caught.value.status, caught.value.code, caught.value.param, caught.value.trace_id) == (
            400,
            "sample_rate_too_low",
            "prompt_audio",
            TRACE,
        )

    def test_and_so_is_one_in_the_middle(self, api):
        api.late_error = {"message": "vocoder-service is not available.", "code": None, "param": None}
        with pytest.raises(ApiError, match="vocoder-service is not") as caught:
            ask(api)
        assert caught.value.trace_id == TRACE

    def test_an_answer_that_breaks_off_is_an_error(self, api):
        api.breaks_off = True
        with pytest.raises(ApiError, match="broke off") as caught:
            ask(api)
        assert caught.value.trace_id == TRACE

    def test_a_key_is_handed_on(self, api):
        api.key = "secret"
        with pytest.raises(ApiError, match="key") as caught:
            ask(api)
        assert caught.value.status == 401
        with Api(api.url, "secret") as client:
            assert client.voices() == []

    def test_a_key_that_is_no_header_is_named(self):
        with pytest.raises(ApiError, match="key"):
            Api("http://127.0.0.1:1", "钥匙")

    def test_nobody_there_says_how_to_start(self):
        with Api(f"http://127.0.0.1:{ports.any_free()}") as client, pytest.raises(ApiError, match="make up"):
            client.dialects()

    def test_a_voice_is_kept_listed_renamed_and_deleted(self, api):
        with Api(api.url) as client:
            kept = client.keep_voice(CLIP, name="anna", dialect="en-US", consent="she said yes")
            assert [one["id"] for one in client.voices()] == [kept["id"]]
            assert client.rename_voice(kept["id"], "bert")["name"] == "bert"
            assert [one["name"] for one in client.voices()] == ["bert"]
            client.delete_voice(kept["id"])
            assert client.voices() == []

    def test_an_error_says_the_service_at_fault_and_its_type(self, api):
        api.refusal = (503, {"message": "tts-service is not available.", "type": "stage_unavailable", "code": None})
        with pytest.raises(ApiError) as caught:
            ask(api)
        assert (caught.value.type, caught.value.service) == ("stage_unavailable", None)
        api.at_fault = "tts-service"
        with pytest.raises(ApiError) as caught:
            ask(api)
        assert caught.value.service == "tts-service"


def eventually(holds) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
