"""Nothing leaves that isn't on the list: canaries in every place a span has."""

import json

import pytest

from tracing import Tracer, encode, vocabulary
from tracing.allow_list import TAG_SHAPES
from tracing.export_settings import Allow
from tracing.redaction import Redaction, pseudonym

CANARY = "canary7secret"


def span(**changes) -> dict:
    return {
        "traceId": "a" * 32,
        "id": "b" * 16,
        "parentId": "c" * 16,
        "kind": "SERVER",
        "name": "GENERATE_MEL",
        "timestamp": 1_700_000_000_000_000,
        "duration": 5,
        "localEndpoint": {"serviceName": "tts-service"},
        "tags": {"stage": "GENERATE_MEL"},
    } | changes


def test_a_plain_span_leaves_as_it_is():
    whole = span(
        annotations=[{"timestamp": 5, "value": vocabulary.DEQUEUED}], remoteEndpoint={"serviceName": "vocoder-service"}
    )
    assert Redaction().redact([whole]) == ([whole], 0)


PLACES = [
    {"name": CANARY},
    {"name": CANARY.upper()},
    {"name": f"GET /{CANARY}"},
    {"name": f"{CANARY} /api/generate"},
    {"name": f"GET /api/generate?q={CANARY}"},
    {"name": {"a": CANARY}},
    {"name": [CANARY]},
    {"kind": CANARY},
    {"kind": [CANARY]},
    {"parentId": CANARY},
    {"parentId": 5},
    {"shared": CANARY},
    {CANARY: 1},
    {"debug": CANARY},
    {"localEndpoint": {"serviceName": CANARY}},
    {"localEndpoint": CANARY},
    {"localEndpoint": {"serviceName": "tts-service", "ipv4": CANARY, "port": CANARY}},
    {"localEndpoint": {"serviceName": [CANARY]}},
    {"remoteEndpoint": {"serviceName": CANARY}},
    {"remoteEndpoint": {"serviceName": "tts-service", "ipv4": "203.0.113.77", CANARY: CANARY}},
    {"annotations": [{"timestamp": 5, "value": CANARY}]},
    {"annotations": [{"timestamp": CANARY, "value": "dequeued"}]},
    {"annotations": CANARY},
    {"annotations": {CANARY: 1}},
    {"annotations": [CANARY]},
    {"annotations": [{"timestamp": 5, "value": "dequeued", CANARY: CANARY}]},
    {"tags": {CANARY: "1"}},
    {"tags": CANARY},
    {"tags": [CANARY]},
    {"tags": {"url.full": f"http://x/?{CANARY}"}},
    {"tags": {"error": CANARY}},
    {"tags": {"error": f"ValueError: {CANARY}", "error.type": "internal"}},
    {"tags": {"error": [CANARY]}},
    {"tags": {"error": None}},
    {"tags": {"error": "a", "error.type": f"A {CANARY}"}},
    {"tags": {"stage": CANARY}},
    {"tags": {"text.length": CANARY}},
    {"tags": {"http.route": f"/{CANARY}"}},
    {"tags": {"user.hash": CANARY}},
    {"tags": {"batch.id": CANARY}},
    {"tags": {"compute_ms": f"1 {CANARY}"}},
    {"tags": {"http.method": CANARY}},
    {"tags": {"http.status_code": f"400{CANARY}"}},
    {"tags": {"request.mode": CANARY}},
    {"tags": {"device": f"cuda:{CANARY}"}},
    {"tags": {"model.name": f"a sentence with {CANARY}"}},
    {"tags": {"model.version": "v" * 65 + CANARY}},
    {"tags": {"replica.id": f"{CANARY}\n"}},
    {"tags": {"audio.format": f"WAV/{CANARY}"}},
    {"tags": {"request.dialect": f"{CANARY} 你好"}},
    {"tags": {"error.code": f"{CANARY}!"}},
    {"tags": {"text.length": 5}},
    {"tags": {"error.type": {"a": CANARY}}},
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_canary_never_leaves(place):
    before = json.dumps(span(**place), sort_keys=True)
    (clean,), _ = Redaction().redact([json.loads(before)])
    left = json.dumps(clean).lower()
    assert CANARY not in left and "203.0.113.77" not in left
    assert json.dumps(span(**place), sort_keys=True) == before


@pytest.mark.parametrize("shape", TAG_SHAPES.items(), ids=lambda item: item[0])
def test_no_tag_holds_a_sentence(shape):
    key, _ = shape
    for text in (
        "please read this aloud",
        "请把这句话读出来",
        "a@b.example",
        "+86 138 0000 0000",
        "C:\\Users\\me",
        "",
        "x\n",
        "word" * 30,
    ):
        (clean,), taken = Redaction().redact([span(tags={key: text})])
        assert clean["tags"] == {} and taken == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"traceId": CANARY},
        {"traceId": None},
        {"id": CANARY},
        {"timestamp": CANARY},
        {"timestamp": 0},
        {"timestamp": 2**60},
        {"timestamp": 1.5},
        {"duration": 0},
        {"duration": None},
        {"duration": True},
    ],
    ids=str,
)
def test_a_span_without_identity_is_left_out_and_its_neighbours_stay(broken):
    kept, taken = Redaction().redact([span(**broken), span(), CANARY, None])
    assert kept == [span()] and taken == 3


def test_what_is_taken_out_is_counted():
    _, taken = Redaction().redact([span(name="x", tags={"a": "1", "b": "2", "stage": "GENERATE_MEL"})])
    assert taken == 3


def error_after(tags: dict, allow: Allow = Allow()) -> str:
    (clean,), _ = Redaction(allow).redact([span(tags=tags)])
    return clean["tags"]["error"]


def test_an_unknown_message_becomes_type_and_code():
    assert error_after({"error": CANARY}) == "error"
    assert error_after({"error": CANARY, "error.type": "internal"}) == "internal"
    assert (
        error_after({"error": CANARY, "error.type": "input_validation", "error.code": "sample_rate_too_low"})
        == "input_validation: sample_rate_too_low"
    )


def test_a_known_message_leaves_with_its_numbers_and_no_more():
    allow = Allow(error_messages=("Audio sample rate {}Hz, minimum required {}Hz", "Too long (at most {}). Cut it."))
    known = "Audio sample rate 8000Hz, minimum required 16000Hz"
    assert error_after({"error": known, "error.type": "input_validation"}, allow) == known
    for near in (
        known + CANARY,
        known.replace("8000", "my secret is 8"),
        known.replace("8000", "8" * 30),
        known.replace("8000", CANARY.upper()),
        "Too longX(at most 5). Cut it.",
    ):
        assert error_after({"error": near, "error.type": "input_validation"}, allow) == "input_validation"


def test_configuration_widens_names_and_narrows_values():
    allow = Allow(span_names={"HUM"}, routes={"/v2/audio/speech"}, values={"request.dialect": {"mandarin"}})
    redaction = Redaction(allow)
    for name in ("HUM", "POST /v2/audio/speech"):
        assert redaction.redact([span(name=name)])[0][0]["name"] == name
        assert Redaction().redact([span(name=name)])[0][0]["name"] == "UNNAMED"
    tags = {"request.dialect": "mandarin", "http.route": "/v2/audio/speech"}
    assert redaction.redact([span(tags=tags)]) == ([span(tags=tags)], 0)
    assert redaction.redact([span(tags={"request.dialect": CANARY})])[0][0]["tags"] == {}


def test_everything_the_vocabulary_offers_passes_as_spans_write_it():
    tags = {
        vocabulary.STAGE: vocabulary.VOCODE_WAV,
        vocabulary.REQUEST_DIALECT: "english-us",
        vocabulary.REQUEST_DIALECT_CODE: "en-US",
        vocabulary.REQUEST_DIALECT_SOURCE: "request",
        vocabulary.REQUEST_LANGUAGE: "zh",
        vocabulary.REQUEST_MODE: "instruct",
        vocabulary.REQUEST_FALLBACK: True,
        vocabulary.REQUEST_PARENT: "0123456789abcdef" * 2,
        vocabulary.REQUEST_ITEM: 31,
        vocabulary.REQUEST_ITEMS: 32,
        vocabulary.REQUEST_ITEMS_FAILED: 1,
        vocabulary.SUBREQUEST_TRACE_ID: "0123456789abcdef" * 2,
        vocabulary.TEXT_LENGTH: 200,
        vocabulary.TEXT_PAUSE_S: 12.05,
        vocabulary.VOICE_MIX: 2,
        vocabulary.AUDIO_SAMPLE_RATE: 24000,
        vocabulary.AUDIO_DURATION: 5.123456789,
        vocabulary.TEXT_SCRIPT: "han",
        vocabulary.AUDIO_FORMAT: "WAV",
        vocabulary.AUDIO_CLIPPING: 0.00001,
        vocabulary.AUDIO_WATERMARK: 0.9971,
        vocabulary.MODEL_NAME: "Fun-CosyVoice3-0.5B-2512",
        vocabulary.MODEL_VERSION: "0.9.4+cpu",
        vocabulary.VOICE_CACHE: "miss",
        vocabulary.VOICE_FIT: "fitted",
        vocabulary.FIT_STEPS: 8,
        vocabulary.FIT_TAKEN_UP_AT: 4,
        vocabulary.FIT_LOSS_BEFORE: 0.5342,
        vocabulary.FIT_LOSS_AFTER: 0.2918,
        vocabulary.FIT_SECONDS: 21.703,
        vocabulary.FIT_STOPPED: "close_enough",
        vocabulary.FIT_KEPT: "false",
        vocabulary.FIT_WHY: "it-took-over-noise-from-the-clip",
        vocabulary.FIT_WAIT_MS: 21703.125,
        vocabulary.FIT_ASKED_BY: "0123456789abcdef" * 2,
        vocabulary.QUEUE_WAIT_MS: 0.0,
        vocabulary.PROXY_WAIT_MS: 5204.731,
        vocabulary.BATCH_ID: "0123456789abcdef",
        vocabulary.BATCH_SIZE: 8,
        vocabulary.BATCH_WAIT_MS: 199.9,
        vocabulary.COMPUTE_MS: 12345.678,
        vocabulary.STREAM_CHUNKS: 5,
        vocabulary.STREAM_CONTINUOUS: "false",
        vocabulary.STREAM_UNDERRUN_MS: 1250.125,
        vocabulary.STREAM_SECONDS: 12.345,
        vocabulary.STREAM_HOLD_MS: 480.5,
        vocabulary.PIECE: 2,
        vocabulary.PIECES: 3,
        vocabulary.LM_STEPS: 250,
        vocabulary.LM_TOKENS_PER_SECOND: 61.237,
        vocabulary.FLOW_STEPS: 10,
        vocabulary.FLOW_FRAMES: 480,
        vocabulary.SESSION_ID: "0123456789abcdef",
        vocabulary.SESSION_EVENT: "utterance",
        vocabulary.UTTERANCE_INDEX: 12,
        vocabulary.UTTERANCE_CANCELLED: "true",
        vocabulary.DEVICE: "cuda:0",
        vocabulary.GPU_UTILIZATION: 0.97,
        vocabulary.REPLICA_ID: "p0x3k2ab",
        vocabulary.NODE_ID: "0123456789abcdef" * 3 + "01234567",
        vocabulary.CLOCK_SKEW_MS: -3000.1,
        vocabulary.K8S_POD_NAME: "cosygraph-raycluster-x7k2p-gpu-worker-9fjt2",
        vocabulary.HTTP_METHOD: "POST",
        vocabulary.HTTP_ROUTE: "/api/generate",
        vocabulary.HTTP_STATUS_CODE: 503,
        vocabulary.ERROR_TYPE: "stage_unavailable",
        vocabulary.ERROR_CODE: "text_too_long",
        vocabulary.ERROR_SERVICE: "tts-service",
        vocabulary.ERROR_NODE: "a" * 56,
        vocabulary.WATCHDOG_CAUSE: "canary_failed",
        vocabulary.WATCHDOG_SERVICE: "tts-service",
        vocabulary.WATCHDOG_FAILURES: 3,
        vocabulary.WATCHDOG_LINE: "fallback",
        vocabulary.WATCHDOG_NODE: "0123456789abcdef" * 3 + "01234567",
        vocabulary.WATCHDOG_NODE_ADDRESS: "10.0.0.12",
        vocabulary.SCALING_FROM: 2,
        vocabulary.SCALING_TO: 5,
        vocabulary.SCALING_RATE: 20.125,
        vocabulary.SCALING_QUEUE: 37,
        vocabulary.SCALING_WAIT_MS: 480,
        vocabulary.SCALING_REACHED: "true",
        vocabulary.CANARY_TRACE_ID: "0123456789abcdef" * 2,
        vocabulary.USER_HASH: pseudonym("someone", b"k" * 16),
        vocabulary.SAMPLING_REASON: "caller_demanded",
        vocabulary.SAMPLING_ADJUSTED_COUNT: "6.667",
    }
    assert set(tags) == set(TAG_SHAPES) | {vocabulary.HTTP_ROUTE}
    made = Tracer(vocabulary.INGRESS, ip="::1").server("POST /api/generate", parent=None)
    made.tags(tags)
    spans = encode(made.end())
    assert Redaction().redact(spans) == (spans, 0)


def test_a_user_leaves_as_a_keyed_hash_only():
    assert pseudonym("+8613800000000", b"k" * 16) == pseudonym("+8613800000000", b"k" * 16)
    assert pseudonym("+8613800000000", b"k" * 16) != pseudonym("+8613800000000", b"l" * 16)
    with pytest.raises(ValueError, match="16 random bytes"):
        pseudonym("+8613800000000", b"short")
