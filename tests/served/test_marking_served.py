"""Every door that gives speech, on the running graph, in every format: each file has the mark, with its own trace id.

The doors are those of tests/helpers/audio_doors.py, which tests/unit/test_marking.py compares with the routes.
"""

from __future__ import annotations

import base64
import io
import json

import httpx
import pytest
import soundfile

from cluster import cli, demo
from speech import verification
from speech.encoding import FORMATS, encode
from speech.mark import HEADER, SYNTHETIC, Mark
from tests.helpers import audio_doors
from tests.helpers.audio_doors import Door
from tests.helpers.serving import App, tone
from webui import run
from webui.client import Clip, Speech
from webui.takes import FORMATS as TAKE_FORMATS
from webui.takes import TakeFiles

TEXT = "Hello there."
NAME = "marked-voice"
CLIP = tone()
SPOKEN = demo.CLIP.read_bytes()
FORM = {"text": TEXT, "dialect": "en-US"}
OPENAI = {
    "input": TEXT,
    "dialect": "en-US",
    "ref_audio": "data:audio/wav;base64," + base64.b64encode(CLIP).decode(),
}
WAYS = ({}, {"stream_format": "audio"}, {"stream_format": "sse"})  #: whole, in chunks, as events


@pytest.fixture(scope="module", autouse=True)
def stored_voice(apps):
    """A voice for the paths that speak with a stored one."""
    fast = apps["fast"]
    form = {"name": NAME, "dialect": "en-US", "consent": "A tone has none to give."}
    answer = ask(fast, "POST", "/v1/audio/voices", data=form, files={"audio_sample": ("clip.wav", CLIP)})
    assert answer.status_code in (200, 201), answer.text
    yield
    ask(fast, "DELETE", f"/v1/audio/voices/{NAME}")


def ask(app: App, method: str, path: str, **what) -> httpx.Response:
    return httpx.request(method, f"{app.url}{path}", timeout=60, trust_env=False, **what)


def answers(app: App, door: Door) -> list[tuple[str, httpx.Response]]:
    """All that a door can answer with: (format, answer). A door without an entry here can't pass."""
    method, path = door
    if path == "/api/generate":
        asked = [(name, FORM | {"response_format": name} | way) for name in FORMATS for way in WAYS]
        return [
            (fields["response_format"], ask(app, method, path, data=fields, files={"prompt_audio": ("c.wav", CLIP)}))
            for _, fields in asked
        ]
    if path == "/v1/audio/speech":
        ways = ({"stream": False}, *WAYS[1:])
        return [
            (name, ask(app, method, path, json=OPENAI | {"response_format": name} | way))
            for name in FORMATS
            for way in ways
        ]
    if path == "/v1/audio/speech/batch":
        items = [{"input": TEXT, "response_format": name} for name in FORMATS]
        common = {name: value for name, value in OPENAI.items() if name != "input"}
        return [
            (name, ask(app, method, path, json=common | {"items": [item]}))
            for name, item in zip(FORMATS, items, strict=True)
        ]
    fields = {
        "tts_text": (None, TEXT),
        "dialect": (None, "en-US"),
        "spk_id": (None, NAME),
        "prompt_text": (None, "A tone"),
        "instruct_text": (None, "Slowly."),
        "prompt_wav": ("c.wav", CLIP),
    }
    needed = {
        "/inference_sft": ("tts_text", "dialect", "spk_id"),
        "/inference_zero_shot": ("tts_text", "dialect", "prompt_text", "prompt_wav"),
        "/inference_cross_lingual": ("tts_text", "dialect", "prompt_wav"),
        "/inference_instruct": ("tts_text", "dialect", "spk_id", "instruct_text"),
        "/inference_instruct2": ("tts_text", "dialect", "instruct_text", "prompt_wav"),
    }[path]
    return [("pcm", ask(app, method, path, files={name: fields[name] for name in needed}))]


def content(answer: httpx.Response) -> tuple[bytes, str]:
    """The file, and the trace id that it should have: the answer itself, an item of it, or what its events bring."""
    trace_id = answer.headers["x-trace-id"]
    if answer.headers["content-type"] == "application/json":
        [result] = answer.json()["results"]
        assert Mark.parse(result["aigc"]) == Mark("Cosygraph", result["trace_id"], SYNTHETIC)
        return base64.b64decode(result["audio_data"]), result["trace_id"]
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.content, trace_id
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    return b"".join(base64.b64decode(event["audio"]) for event in events if "audio" in event), trace_id


#: tests/served/test_live_served.py asks the WebSocket.
DOORS = sorted(door for door in audio_doors.SPEECH if door[0] != "WS")


@pytest.mark.parametrize("door", DOORS, ids=" ".join)
def test_every_file_of_every_door_gives_its_trace_id_back(fast, door):
    for format, answer in answers(fast, door):
        assert answer.status_code == 200, (format, answer.text)
        trace_id = answer.headers["x-trace-id"]
        assert Mark.parse(answer.headers[HEADER]) == Mark("Cosygraph", trace_id, SYNTHETIC)
        file, trace_id = content(answer)
        assert len(file) > 1000
        if format != "pcm":
            assert verification.read(file).mark == Mark("Cosygraph", trace_id), format


def test_an_error_is_no_speech(fast):
    answer = ask(fast, "POST", "/api/generate", data=FORM | {"dialect": "xx"}, files={"prompt_audio": ("c.wav", CLIP)})
    assert answer.status_code == 400 and HEADER not in answer.headers


def test_takes_of_the_page_have_the_trace_id_of_their_request(fast, tmp_path):
    wish = run.Wish("voice", None, NAME, "en-US", TEXT, "fast", None, None, None, None, False, None)
    attempt = run.Attempt()
    *_, last = run.run(wish, fast.url, fast.zipkin, _Words(), attempt)
    assert last.finished is not None
    previewed = run.spoken(fast.url, None, Speech(TEXT, "en-US", Clip("c.wav", CLIP), response_format="pcm"))
    files = TakeFiles(tmp_path)
    for wav, trace_id in ((last.finished.wav, attempt.trace_id), (previewed, None)):
        token = files.add(wav)
        for format in TAKE_FORMATS:
            path, _ = files.file(token, format)
            mark = verification.read(path.read_bytes()).mark
            assert mark is not None and trace_id in (None, mark.trace_id) and mark.trace_id


class _Words(dict):
    def __missing__(self, name: str) -> str:
        return name


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "opus", "aac"])
def test_what_say_writes_is_marked_and_the_command_verify_reads_it(fast, tmp_path, capsys, extension):
    def command(*arguments: str) -> str:
        assert cli.main([*arguments, "--run-dir", str(tmp_path)]) == 0
        return capsys.readouterr().out

    file = tmp_path / f"out.{extension}"
    said = command("say", TEXT, "--voice", NAME, "-o", str(file), "--url", fast.url)
    found = json.loads(command("verify", str(file), "--json"))
    assert found["marked"] and found["trace_id"] in said


@pytest.mark.parametrize("way", [{}, {"stream_format": "audio"}], ids=["whole", "streamed"])
def test_where_it_is_switched_on_the_sound_itself_is_marked_whole_and_streamed(voice, way):
    """The embedded engine streams sentence by sentence: the second file is marked in two pieces."""
    fields = {"text": "The harbor is quiet tonight. Nobody waits for the last ferry.", "dialect": "en-US"}
    made = ask(voice, "POST", "/api/generate", data=fields | way, files={"prompt_audio": ("c.flac", SPOKEN)})
    assert made.status_code == 200, made.text
    sound, rate = soundfile.read(io.BytesIO(made.content), dtype="float32")
    bare = encode(sound, rate, "mp3", None)  # as after a program that drops metadata
    answer = ask(voice, "POST", "/v1/audio/verify", files={"file": ("any.mp3", bare)})
    found = answer.json()
    assert found["marked"] and found["metadata"] is None and found["watermark"]["found"], found
    spans = {span["name"]: span for span in voice.trace(answer.headers["x-trace-id"], spans=2)}
    assert float(spans["find_watermark"]["tags"]["audio.watermark"]) == found["watermark"]["confidence"]
    assert spans["find_watermark"]["localEndpoint"]["serviceName"] == "vocoder-service"


def test_a_persons_recording_has_no_watermark(voice):
    found = ask(voice, "POST", "/v1/audio/verify", files={"file": ("any.flac", SPOKEN)}).json()
    assert (found["marked"], found["watermark"]["found"]) == (False, False)


def test_the_route_verifies_what_the_graph_has_made_and_has_a_trace(fast):
    made = fast.post(response_format="flac")
    answer = ask(fast, "POST", "/v1/audio/verify", files={"file": ("any.flac", made.content)})
    found = answer.json()
    assert answer.status_code == 200 and found["ours"] and found["trace_id"] == made.headers["x-trace-id"]
    assert fast.trace(found["trace_id"], spans=3) and found["watermark"] is None
    assert found["trace_url"].endswith(f"/zipkin/traces/{found['trace_id']}")
    [span] = fast.trace(answer.headers["x-trace-id"])
    assert span["name"] == "post /v1/audio/verify" and span["tags"]["audio.format"] == "flac"
    refused = ask(fast, "POST", "/v1/audio/verify", files={"file": ("any.wav", b"\1\2" * 999)})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "not_audio"
    assert fast.trace(refused.headers["x-trace-id"])[0]["tags"]["error.type"] == "input_validation"
