"""The speech API that people know: OpenAI's own client against the running graph, and CosyVoice's paths."""

import io
import json

import httpx
import numpy as np
import openai
import pytest
import requests
import soundfile

from tests.helpers.serving import App, tone

LONG = " ".join(f"This is sentence number {number} of a longer text." for number in range(8))


@pytest.fixture(scope="module")
def client(apps) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{apps['fast'].url}/v1",
        api_key="unused",
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


@pytest.fixture(scope="module")
def anna(apps) -> dict:
    answer = httpx.post(
        f"{apps['fast'].url}/v1/audio/voices",
        timeout=60,
        trust_env=False,
        data={"name": "anna", "dialect": "en-GB", "consent": "I agree to this test."},
        files={"audio_sample": ("anna.wav", tone(hz=210))},
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


def of_trace(app: App, answer, spans: int) -> dict[str, dict]:
    return {span["name"]: span for span in app.trace(answer.headers["x-trace-id"], spans=spans)}


def test_the_client_speaks_with_a_stored_voice(client, anna, fast):
    answer = client.audio.speech.with_raw_response.create(
        model="cosygraph", voice="anna", input="Good morning.", response_format="wav"
    )
    sound, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 24_000 and len(sound) > 24_000
    spans = of_trace(fast, answer, 3)
    assert set(spans) == {"post /v1/audio/speech", "generate_mel", "vocode_wav"}, "the first two stages are skipped"
    tags = spans["post /v1/audio/speech"]["tags"]
    assert tags["request.dialect"] == "english-gb" and tags["request.dialect.source"] == "voice"
    assert tags["voice.cache"] in ("hit", "stored") and tags["audio.sample_rate"] == "24000"
    mel = spans["generate_mel"]["tags"]
    assert (mel["request.dialect"], mel["request.dialect.code"], mel["request.mode"]) == ("english-gb", "en-GB", "fast")


def test_mp3_in_chunks_is_what_it_answers_by_itself(client, anna):
    with client.audio.speech.with_streaming_response.create(
        model="simulated", voice={"id": anna["id"]}, input="Good morning."
    ) as answer:
        assert answer.headers["content-type"] == "audio/mpeg" and "content-length" not in answer.headers
        data = b"".join(answer.iter_bytes())
    assert data[:3] == b"ID3" or data[0] == 0xFF


def test_its_events_are_theirs(client, anna):
    with client.audio.speech.with_streaming_response.create(
        model="cosygraph", voice="anna", input="Good morning.", response_format="pcm", stream_format="sse"
    ) as answer:
        found = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]
    assert {event["type"] for event in found[:-1]} == {"speech.audio.delta"}
    usage = found[-1]["usage"]
    assert found[-1]["type"] == "speech.audio.done" and usage == {
        "input_tokens": 13,
        "output_tokens": 250,
        "total_tokens": 263,
    }


def test_a_long_input_is_split_by_itself(client, anna, fast):
    answer = client.audio.speech.with_raw_response.create(
        model="cosygraph", voice="anna", input=LONG, response_format="pcm", extra_body={"stream": False}
    )
    assert len(LONG) > 200 and len(answer.content) > 1.9 * 480_000
    assert int(of_trace(fast, answer, 5)["post /v1/audio/speech"]["tags"]["pieces"]) > 1


def data_url(clip: bytes) -> str:
    import base64

    return "data:audio/wav;base64," + base64.b64encode(clip).decode()


def test_a_clip_may_come_along(client, fast):
    answer = client.audio.speech.with_raw_response.create(
        model="cosygraph",
        voice="default",
        input="Hello.",
        instructions="speak slowly",
        response_format="wav",
        extra_body={"ref_audio": data_url(tone()), "ref_text": "what it says", "dialect": "zh-Sichuan", "seed": 7},
    )
    tags = of_trace(fast, answer, 5)["post /v1/audio/speech"]["tags"]
    assert tags["request.dialect"] == "sichuan" and tags["request.mode"] == "instruct"
    assert tags["request.dialect.source"] == "request"


def test_a_form_with_a_file_does_too(fast):
    answer = httpx.post(
        f"{fast.url}/v1/audio/speech",
        data={"input": "Hello.", "dialect": "en-US"},
        files={"ref_audio": ("clip.wav", tone())},
        timeout=30,
        trust_env=False,
    )
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize(
    "change, error, param, code",
    [
        ({"voice": "nobody"}, openai.NotFoundError, "voice", None),
        ({"model": "tts-9"}, openai.NotFoundError, "model", "model_not_found"),
        ({"input": ""}, openai.BadRequestError, "input", "text_empty"),
        ({"speed": 4.0}, openai.BadRequestError, "speed", "speed_out_of_range"),
        ({"response_format": "midi"}, openai.BadRequestError, "response_format", "response_format_unknown"),
        (
            {"extra_body": {"ref_audio": "https://example.org/a.wav"}},
            openai.BadRequestError,
            "ref_audio",
            "url_not_allowed",
        ),
        ({"extra_body": {"ref_audio": data_url(tone())}}, openai.BadRequestError, "dialect", "dialect_missing"),
        (
            {"extra_body": {"ref_audio": data_url(tone(rate=8000)), "dialect": "en-US"}},
            openai.BadRequestError,
            "ref_audio",
            "sample_rate_too_low",
        ),
        ({"extra_body": {"language": "klingon"}}, openai.BadRequestError, "language", "language_unclear"),
        ({"extra_body": {"temperature": 1}}, openai.BadRequestError, None, "field_unknown"),
        ({"extra_body": {"task_type": "VoiceDesign"}}, openai.BadRequestError, "task_type", "task_type_unknown"),
        ({"extra_body": {"seed": [1]}}, openai.BadRequestError, "seed", "field_type"),
    ],
)
def test_errors_are_its_own(client, anna, change, error, param, code):
    given = {"model": "cosygraph", "voice": "anna", "input": "Hello."} | change
    with pytest.raises(error) as caught:
        client.audio.speech.create(**given)
    assert caught.value.param == param and (code is None or caught.value.code == code)
    assert len(caught.value.body["message"]) > 40, "cause and remedy"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(fast, body):
    answer = httpx.post(
        f"{fast.url}/v1/audio/speech",
        content=body,
        headers={"content-type": "application/json"},
        timeout=30,
        trust_env=False,
    )
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "not_json"


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["simulated"]
    assert client.models.retrieve("simulated").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_voices_are_kept_by_its_client_too(client, fast):
    made = client.audio.voices.create(
        name="bob", consent="I agree.", audio_sample=("bob.wav", tone(hz=120)), extra_body={"dialect": "en-US"}
    )
    assert made.object == "audio.voice" and made.name == "bob"
    listed = httpx.get(f"{fast.url}/v1/audio/voices", trust_env=False).json()["data"]
    assert made.id in [voice["id"] for voice in listed]
    assert client.audio.voices.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(model="cosygraph", voice="bob", input="Hello.")


def theirs(app: App, path: str, method: str = "GET", *, clip: bytes | None = b"", **fields: str) -> requests.Response:
    """As their client sends it, with the library it uses: a form by GET, in their order of fields, the clip without a
    name or a type; multipart with a clip, else one line. `clip`: None for none."""
    files = None if clip is None else [("prompt_wav", ("prompt_wav", clip or tone(), "application/octet-stream"))]
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, f"{app.url}{path}", data=fields, files=files, timeout=30)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path, fields, dialect",
    [
        ("/inference_zero_shot", {"prompt_text": "what it says"}, ("mandarin", "config")),
        ("/inference_cross_lingual", {}, ("mandarin", "config")),
        ("/inference_cross_lingual", {"dialect": "en-US"}, ("english-us", "request")),
        (
            "/inference_instruct2",
            {"instruct_text": "You are a helpful assistant. 请用四川话表达。<|endofprompt|>"},
            ("sichuan", "request"),
        ),
        ("/inference_instruct2", {"instruct_text": "请非常开心地说一句话。"}, ("mandarin", "config")),
    ],
)
def test_cosyvoices_own_paths_answer_int16_at_24_khz(fast, method, path, fields, dialect):
    text = "Good day." if fields.get("dialect") == "en-US" else "你好。"
    answer = theirs(fast, path, method, tts_text=text, **fields)
    assert answer.status_code == 200, answer.text
    assert np.frombuffer(answer.content, np.int16).size == 240_000
    tags = of_trace(fast, answer, 5)[f"{method.lower()} {path}"]["tags"]
    assert (tags["request.dialect"], tags["request.dialect.source"]) == dialect
    assert tags["request.mode"] == ("instruct" if "开心" in fields.get("instruct_text", "") else "fast")


def test_a_speaker_of_theirs_is_a_stored_voice_of_ours(fast, anna):
    answer = theirs(fast, "/inference_sft", clip=None, tts_text="Hello.", spk_id="anna")
    assert answer.status_code == 200 and np.frombuffer(answer.content, np.int16).size == 240_000
    tags = of_trace(fast, answer, 3)["get /inference_sft"]["tags"]
    assert (tags["request.dialect"], tags["request.dialect.source"]) == ("english-gb", "voice")
    refused = theirs(fast, "/inference_sft", clip=None, tts_text="Hello.", spk_id="nobody")
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "spk_id")
    refused = theirs(fast, "/inference_sft", clip=None, tts_text="x" * 100_000, spk_id="anna")
    assert refused.json()["error"]["code"] == "form_too_long"


def test_and_takes_an_instruction(fast, anna):
    """Their client's mode `instruct`; line breaks and all, as its default has them."""
    answer = theirs(
        fast,
        "/inference_instruct",
        clip=None,
        tts_text="Hello.",
        spk_id="anna",
        instruct_text="A rebel leader. \\\n          Fights with fervor.",
    )
    assert answer.status_code == 200 and np.frombuffer(answer.content, np.int16).size == 240_000
    tags = of_trace(fast, answer, 3)["get /inference_instruct"]["tags"]
    assert (tags["request.mode"], tags["request.dialect"]) == ("instruct", "english-gb")


@pytest.mark.parametrize(
    "path, fields, param",
    [
        ("/inference_zero_shot", {"tts_text": "Hi."}, "prompt_text"),
        ("/inference_instruct2", {"tts_text": "Hi."}, "instruct_text"),
        ("/inference_cross_lingual", {}, "tts_text"),
        ("/inference_cross_lingual", {"tts_text": ""}, "tts_text"),
        ("/inference_instruct", {"tts_text": "Hi.", "instruct_text": "happy"}, "spk_id"),
    ],
)
def test_what_is_missing_is_named_as_they_call_it(fast, path, fields, param):
    answer = theirs(fast, path, **fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_without_a_configured_dialect_theirs_are_refused(watched):
    answer = theirs(watched, "/inference_cross_lingual", tts_text="Hi.")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "dialect_missing"
