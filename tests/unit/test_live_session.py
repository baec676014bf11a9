"""A WebSocket session without Ray: its messages in any order, right and wrong, and the traces that it leaves."""

from __future__ import annotations

import base64
import gc
import io
import json
import time
from contextlib import ExitStack

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError
from starlette.testclient import TestClient, WebSocketDenialResponse

from access.key_editor import KeyEditor
from config.routes import LIVE
from deployments.ingress import live_session
from deployments.ingress.context import RequestContext
from deployments.ingress.live_flow import ReplicaFlow
from deployments.ingress.live_handshake import Handshake
from deployments.ingress.live_sentence import LiveSentence
from deployments.ingress.live_utterance import LiveUtterance
from deployments.ingress.stage_result import StageResult
from deployments.settings import Cors, Limits
from deployments.wire import AudioReply
from speech.errors import InternalError
from speech.mark import Mark
from tests.helpers.live import RATE, Ingress
from tracing import vocabulary

#: what a session has made for itself
HOLDERS = (live_session.LiveSession, LiveSentence, Handshake, LiveUtterance, ReplicaFlow, RequestContext)


@pytest.fixture
def ingress(tmp_path) -> Ingress:
    return Ingress(tmp_path)


def kinds(events: list[dict]) -> list[str]:
    return [event["type"] for event in events]


def test_text_is_said_by_clause_while_it_is_written(ingress):
    with ingress.connected() as session:
        ready = session.configure(split_granularity="clause", stream_audio=True)
        assert ready["type"] == "session.configured" and ready["sample_rate"] == RATE and ready["format"] == "pcm"
        session.send("input.text", text="Good morning to you, dear lis")
        first = session.until("audio.done")
        assert kinds(first) == ["audio.start", "audio.done"], "before the sentence is complete"
        assert first[0]["sentence_text"] == "Good morning to you," and first[1]["total_bytes"] == len(session.audio[0])
        assert Mark.parse(first[0]["aigc"]).trace_id == first[0]["trace_id"]
        rest = session.say("teners of ours. It is a fine day.")
        assert [event["sentence_text"] for event in rest if event["type"] == "audio.start"] == [
            "dear listeners of ours.",
            "It is a fine day.",
        ]
        done = rest[-1]
        assert (done["utterance_index"], done["total_sentences"]) == (0, 3)
        assert done["seconds"] == pytest.approx(sum(map(len, session.audio)) / 2 / RATE)
        assert session.say("Another one.")[-1]["utterance_index"] == 1
    utterances = [root for root in ingress.roots() if root.tags[vocabulary.SESSION_EVENT] == "utterance"]
    assert len({root.tags[vocabulary.SESSION_ID] for root in ingress.roots()}) == 1
    assert [root.tags[vocabulary.UTTERANCE_INDEX] for root in utterances] == ["0", "1"]
    assert utterances[0].name == f"WS {LIVE}" and utterances[0].tags[vocabulary.PIECES] == "3"
    assert utterances[0].tags[vocabulary.TEXT_LENGTH] == str(
        len("Good morning to you, dear listeners of ours. It is a fine day.")
    )
    assert not any(vocabulary.ERROR in root.tags for root in ingress.roots())
    assert "Good" not in json.dumps(ingress.traces()), "no text leaves"


def test_first_audio_counts_from_the_first_piece_that_was_known(ingress):
    with ingress.connected() as session:
        session.configure(split_granularity="clause")
        session.send("input.text", text="Good mor")
        time.sleep(0.5)
        assert session.say("ning to you.")[-1]["first_audio_ms"] < 400
    (root,) = [root for root in ingress.roots() if root.tags[vocabulary.SESSION_EVENT] == "utterance"]
    assert [note["value"] for note in root.spans[0]["annotations"]] == [vocabulary.FIRST_PIECE, vocabulary.FIRST_CHUNK]
    assert root.spans[0]["duration"] > 500_000


def test_without_granularity_an_utterance_is_one_file(ingress):
    with ingress.connected() as session:
        session.configure(response_format="wav", split_granularity="none")
        session.send("input.text", text="Good morning to you. ")
        events = session.say("It is a fine day.")
        assert kinds(events).count("audio.start") == 2 and len(session.audio) == 2
        for data in session.audio:
            samples, rate = soundfile.read(io.BytesIO(data))
            assert rate == RATE and len(samples) >= 0.9 * RATE


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus", "aac"])
@pytest.mark.parametrize("chunked", [True, False])
def test_every_format_is_a_file_for_each_sentence(ingress, format, chunked):
    import av

    with ingress.connected() as session:
        session.configure(response_format=format, split_granularity="sentence", stream_audio=chunked)
        events = session.say("It is a fine day for all of us.")
        assert events[0]["format"] == format
        with av.open(io.BytesIO(b"".join(session.audio))) as file:
            seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
        assert seconds == pytest.approx(1.0, abs=0.25)


def test_audio_may_come_inside_of_json(ingress):
    with ingress.connected() as session:
        session.configure(audio_encoding="base64", stream_audio=True, split_granularity="sentence")
        chunks = [
            event for event in session.say("It is a fine day. So it is indeed.") if event["type"] == "audio.chunk"
        ]
        data = b"".join(base64.b64decode(chunk["audio_b64"]) for chunk in chunks)
        assert not session.audio and np.frombuffer(data, np.int16).any()
        assert chunks[0]["chunk_end_ms"] == pytest.approx(len(base64.b64decode(chunks[0]["audio_b64"])) / 48, abs=1)


def test_fragments_do_not_matter_to_what_is_said(ingress):
    text = "He came at 5 p.m. on Monday, as he always did. 😀 Then he left."
    with ingress.connected() as session:
        session.configure(split_granularity="clause")
        session.say(text)
        whole, ingress.pipeline.said = ingress.pipeline.said, []
        session.say(*json.loads(json.dumps(list(text.encode("utf-16", "surrogatepass").decode("utf-16")))))
        assert ingress.pipeline.said == whole
        ingress.pipeline.said = []
        for half in ("He came \\ud83d", "\\ude00 home."):
            session.socket.send_text('{"type": "input.text", "text": "' + half + '"}')
        session.say()
        assert ingress.pipeline.said == ["He came 😀 home."]


@pytest.mark.parametrize(
    "frame, code, says",
    [
        ("{", "not_json", "JSON object"),
        ("[1]", "not_json", "JSON object"),
        ("[" * 100_000, "not_json", "JSON object"),
        ('{"type": "input.txt"}', "message_type_unknown", "'input.text'"),
        ('{"text": "a"}', "message_type_unknown", "input.text"),
        ('{"type": "input.text", "txt": "a"}', "field_unknown", "'text'"),
        ('{"type": "input.text", "text": 5}', "field_type", "must be a text"),
        ('{"type": "input.done", "now": true}', "field_unknown", "none beside"),
        ('{"type": "session.config", "vioce": "anna"}', "field_unknown", "'voice'"),
        ('{"type": "session.config", "voice": "nobody", "dialect": "en-US"}', "voice_unknown", "no voice"),
        ('{"type": "session.config", "split_granularity": "word"}', "split_granularity_unknown", "clause"),
        ('{"type": "session.config", "stream_audio": "yes"}', "field_type", "true or false"),
        ('{"type": "session.config", "speaker_embedding": [1]}', "field_not_supported", "leave it out"),
        ('{"type": "session.config", "voice": "anna", "dialect": "xx"}', "dialect_unknown", "dialect"),
        ('{"type": "input.text", "text": "' + "a" * 200_000 + '"}', "message_too_long", "several messages"),
        (b"\x00\x01", "message_binary", "JSON texts"),
    ],
)
def test_a_wrong_message_is_answered_and_the_session_goes_on(ingress, frame, code, says):
    with ingress.connected() as session:
        session.configure()
        (session.socket.send_bytes if isinstance(frame, bytes) else session.socket.send_text)(frame)
        event = session.event()
        assert (event["type"], event["code"]) == ("error", code) and says in event["message"], event
        assert event["error"]["code"] == code and event["error"]["type"] in ("input_validation", "voice_not_found")
        assert session.say("It goes on.")[-1]["type"] == "session.done"


@pytest.mark.parametrize(
    "texts, code",
    [
        (["a \\ud83d b"], "text_not_unicode"),
        (["ok then \\ud83d"], "text_not_unicode"),
        (["a \\u0007 bell."], "text_control_character"),
        (["<|endofprompt|> so it is"], "text_special_token"),
        (["...", "?!"], None),
        ([" "], "text_empty"),
        (["word " * 1200], "text_too_long"),
        (["你好，今天天气很好。"], "text_not_in_dialect"),
    ],
)
def test_an_utterance_that_can_not_be_said_ends_alone(ingress, texts, code):
    with ingress.connected() as session:
        session.configure()
        for text in texts:
            session.socket.send_text('{"type": "input.text", "text": "' + text + '"}')
        events = session.say()
        assert events[-1]["type"] == "session.done"
        if code:
            assert [event["code"] for event in events if event["type"] == "error"] == [code]
            assert events[-1]["error"] and events[-2]["trace_id"] == events[-1]["trace_id"]
        assert "error" not in session.say("It goes on.")[-1]
    assert sum(vocabulary.ERROR in root.tags for root in ingress.roots()) == (code is not None)


@pytest.mark.parametrize("text", ["Привет, he said to me yesterday.", "Yesterday he said привет to me."])
def test_a_text_that_begins_in_another_script_is_said_as_a_whole_one_is(ingress, text):
    with ingress.connected() as session:
        session.configure(split_granularity="clause")
        events = session.say(text)
        assert not events[-1].get("error") and "error" not in kinds(events)
        said = [event["sentence_text"] for event in events if event["type"] == "audio.start"]
        assert " ".join(said) == text


@pytest.mark.parametrize("text", ["Привет, как твои дела сегодня?", "Привет, мой друг. " * 5 + "So it is."])
def test_a_text_in_another_script_is_refused_when_it_is_complete_or_long_enough_to_tell(ingress, text):
    with ingress.connected() as session:
        session.configure(split_granularity="clause")
        events = session.say(text)
        assert [event["code"] for event in events if event["type"] == "error"] == ["text_not_in_dialect"]
        assert not session.audio and not ingress.pipeline.said


def test_what_was_complete_before_a_text_became_too_long_is_said(ingress):
    ingress.pipeline.seconds = 0.2  # nobody waits for a listener with half a minute of audio
    with ingress.connected() as session:
        session.configure(split_granularity="clause")
        events = session.say("It goes on, " * 5 + "a" * 5000)
        assert [event["code"] for event in events if event["type"] == "error"] == ["text_too_long"]
        assert kinds(events).count("audio.done") >= 5


def test_a_stages_error_ends_the_utterance_and_the_rest_of_its_text_is_dropped(ingress):
    with ingress.connected() as session:
        session.configure(split_granularity="sentence")
        ingress.pipeline.fails = InternalError("it went wrong", service="tts-service")
        session.send("input.text", text="This one fails at once. And")
        events = session.until("session.done")
        assert kinds(events) == ["error", "session.done"] and events[0]["error"]["type"] == "internal"
        ingress.pipeline.fails = None
        session.send("input.text", text=" the rest of it is dropped.")
        session.send("input.done")
        assert session.say("It goes on.")[-1]["utterance_index"] == 1
    assert "the rest" not in str(ingress.pipeline.said)


def test_text_behind_an_utterance_that_failed_is_dropped_and_said_so_once(ingress):
    with ingress.connected() as session:
        session.configure(split_granularity="sentence")
        ingress.pipeline.fails = InternalError("it went wrong", service="tts-service")
        session.send("input.text", text="This one fails at once. And")
        session.until("session.done")
        ingress.pipeline.fails = None
        for word in ("What", "is", "this?"):
            session.send("input.text", text=word)
        (event,) = session.until("error")
        assert event["code"] == "utterance_over" and "input.done" in event["message"]
        assert session.configure()["type"] == "session.configured"
        assert session.say("It is new.")[-1]["utterance_index"] == 1
    assert ingress.pipeline.said[1:] == ["It is new."], "a session.config begins anew too"


def test_cancel_frees_the_running_work_and_is_no_error(ingress):
    ingress.pipeline.holds = 30
    with ingress.connected() as session:
        session.configure(split_granularity="sentence")
        session.send("input.text", text="This one will take very long. And ")
        deadline = time.monotonic() + 5
        while not ingress.pipeline.said and time.monotonic() < deadline:
            time.sleep(0.01)
        began = time.monotonic()
        session.send("cancel")
        done = session.until("session.done")[-1]
        assert done["cancelled"] and "error" not in done and time.monotonic() - began < 1
        assert ingress.pipeline.cancelled == ["This one will take very long."] and ingress.admission.in_flight == 0
        ingress.pipeline.holds = 0
        assert session.say("It goes on.")[-1]["utterance_index"] == 1
    cancelled = [root for root in ingress.roots() if vocabulary.UTTERANCE_CANCELLED in root.tags]
    assert len(cancelled) == 1 and not any(vocabulary.ERROR in span.get("tags", {}) for span in cancelled[0].spans)
    assert len(cancelled[0].spans) == 2, "the stage's span too"


def test_cancel_drops_what_waits_too(ingress):
    ingress.pipeline.holds = 30
    with ingress.connected() as session:
        session.configure()
        for number in range(3):
            session.send("input.text", text=f"Number {number} of them.")
            session.send("input.done")
        session.send("cancel")
        events = [session.until("session.done")[-1] for _ in range(3)]
        assert [event["utterance_index"] for event in events] == [0, 1, 2] and all(
            event["cancelled"] for event in events
        )


def test_cancel_is_not_held_back_by_the_text_that_it_cancels(tmp_path):
    ingress = Ingress(tmp_path, limits=Limits(sessions={"max_unspoken": 200}))
    ingress.pipeline.holds = 30
    with ingress.connected() as session:
        session.configure(split_granularity="sentence")
        for number in range(8):
            session.send("input.text", text=f"Number {number} of them, which is not said. ")
            session.send("input.done")
        while not ingress.pipeline.said:
            time.sleep(0.01)
        began = time.monotonic()
        session.send("cancel")
        done = [session.until("session.done")[-1] for _ in range(8)]
        assert time.monotonic() - began < 2 and all(event["cancelled"] for event in done)
        ingress.pipeline.holds = 0
        assert session.say("It goes on.")[-1]["utterance_index"] == 8
    assert len(ingress.pipeline.said) == 2


def test_a_session_that_waits_to_be_spoken_has_its_longest_time_too(tmp_path):
    ingress = Ingress(tmp_path, limits=Limits(sessions={"max_unspoken": 100, "max_duration_s": 0.5}))
    ingress.pipeline.holds = 30
    with ingress.connected() as session:
        session.configure()
        for number in range(4):
            session.send("input.text", text=f"Number {number} of them.")
            session.send("input.done")
        assert [event.get("code") for event in session.until("closed")[-2:]] == ["too_long", 1000]


def test_a_single_text_is_never_too_much():
    with pytest.raises(ValidationError):
        Limits(sessions={"max_unspoken": 99})


def test_utterances_may_be_sent_ahead_and_closing_waits_for_them(ingress):
    with ingress.connected() as session:
        session.configure()
        for number in range(3):
            session.send("input.text", text=f"Number {number} of them.")
            session.send("input.done")
        session.send("input.text", text="Without an end")
        session.send("session.close")
        events = session.until("closed")
        assert [event["utterance_index"] for event in events if event["type"] == "session.done"] == [0, 1, 2, 3]
        assert events[-1] == {"type": "closed", "code": 1000, "reason": "closed"}
    assert ingress.sessions.counters()["sessions_ended_closed"] == 1


def test_a_flush_without_text_is_answered_in_its_place(ingress):
    with ingress.connected() as session:
        session.configure()
        assert session.say() == [{"type": "session.done", "utterance_index": 0, "total_sentences": 0}]


def test_a_config_can_be_changed_between_utterances_and_not_within_one(ingress):
    with ingress.connected() as session:
        session.configure()
        session.send("input.text", text="It has begun")
        assert session.configure(speed=2)["code"] == "config_in_utterance"
        assert session.say(" and ends.")[-1]["utterance_index"] == 0
        assert session.configure(response_format="flac")["format"] == "flac"
        assert session.configure(speed=9)["code"] == "speed_out_of_range"
        assert session.say("So it is.")[0]["format"] == "flac", "the configuration before stays in force"


def test_the_first_message_must_configure(ingress):
    with ingress.connected() as session:
        session.send("input.text", text="Hello")
        assert session.event()["code"] == "config_missing"
        assert session.event()["code"] == 1008


def test_a_client_that_leaves_ends_its_work_and_its_trace(ingress):
    ingress.pipeline.holds = 30
    with ingress.connected() as session:
        session.configure()
        session.send("input.text", text="This one will take very long.")
        session.send("input.done")
        while not ingress.pipeline.said:
            time.sleep(0.01)
    assert ingress.pipeline.cancelled and ingress.admission.in_flight == 0
    assert ingress.sessions.counters() | {"sessions_open": 0, "sessions_ended_left": 1} == ingress.sessions.counters()
    (root,) = [root for root in ingress.roots() if root.tags[vocabulary.SESSION_EVENT] == "utterance"]
    assert root.tags[vocabulary.ERROR_TYPE] == "cancelled" and len(root.spans) == 2


@pytest.mark.parametrize(
    "limits, code, closes",
    [
        ({"config_timeout_s": 0.2}, "idle", 1000),
        ({"max_duration_s": 0.2}, "too_long", 1000),
        ({"max_open": 0}, "too_many_sessions", 1008),
    ],
)
def test_a_session_has_limits(tmp_path, limits, code, closes):
    ingress = Ingress(tmp_path, limits=Limits(sessions=limits))
    with ingress.connected() as session:
        assert session.event()["code"] == code
        assert session.event()["code"] == closes


def test_an_idle_session_is_closed_but_not_while_it_speaks(tmp_path):
    ingress = Ingress(tmp_path, limits=Limits(sessions={"idle_timeout_s": 0.4}))
    ingress.pipeline.holds = 1.0
    with ingress.connected() as session:
        session.configure()
        assert session.say("It takes a while.")[-1]["type"] == "session.done"
        session.send("input.text", text="It has begun")
        events = session.until("closed")
        assert [event.get("code") for event in events] == ["idle", 1000]
    unfinished = [root for root in ingress.roots() if root.tags.get(vocabulary.UTTERANCE_INDEX) == "1"]
    assert unfinished[0].tags[vocabulary.ERROR_TYPE] == "cancelled", "its trace is whole"


def test_a_caller_has_a_limit_of_its_own(tmp_path):
    ingress = Ingress(tmp_path, limits=Limits(sessions={"max_open_per_caller": 1}))
    with ingress.connected() as session:
        session.configure()
        with ingress.connected() as other:
            assert other.event()["error"]["type"] == "rate_limited"
        counters = ingress.sessions.counters()
        assert counters["sessions_refused"] == counters["sessions_ended_refused"] == 1
        assert counters["sessions_ended_full"] == 0, "it is the caller's, and no alert"
        assert session.say("It goes on.")[-1]["type"] == "session.done"


@pytest.mark.parametrize("most, ended", [(1, "full"), (0, "refused")])
def test_a_full_replica_counts_whom_it_refuses_as_the_alert_reads_it(tmp_path, most, ended):
    ingress = Ingress(tmp_path, limits=Limits(sessions={"max_open": most}))
    with ExitStack() as open_sessions:
        for _ in range(most):
            assert open_sessions.enter_context(ingress.connected()).configure()["type"] == "session.configured"
        with ingress.connected() as refused:
            assert refused.event()["code"] == "too_many_sessions" and refused.event()["code"] == 1008
        assert ingress.sessions.counters()[f"sessions_ended_{ended}"] == 1
    (root,) = [root for root in ingress.roots() if root.tags[vocabulary.SESSION_EVENT] == "refused"]
    assert root.tags[vocabulary.ERROR_TYPE] == "overloaded", "the alert's link asks for it"


def test_a_draining_replica_is_not_full(ingress):
    ingress.sessions.drain()
    with ingress.connected() as session:
        session.event()
    counters = ingress.sessions.counters()
    assert (counters["sessions_ended_refused"], counters["sessions_ended_full"]) == (1, 0)


def test_nothing_holds_on_to_a_session_that_is_over(ingress):
    def held() -> list[object]:
        gc.collect()
        return [one for one in gc.get_objects() if issubclass(type(one), HOLDERS)]

    others = held()  # what other tests of this process have left: held here, so that no new object takes its address

    def left() -> list[type]:
        known = set(map(id, others))
        return [type(one) for one in held() if id(one) not in known]

    with ingress.connected() as session:
        session.configure(split_granularity="sentence")
        session.send("input.text", text="It has begun to be said. And ")
        session.until("audio.done")
        assert {live_session.LiveSession, Handshake, LiveUtterance, ReplicaFlow, RequestContext} <= set(left())
    del session
    ingress.pipeline.holds = 0.05
    for number in range(12):
        with ingress.connected() as session:
            if number % 3:
                session.configure(split_granularity="sentence", stream_audio=True)
                session.send("input.text", text="It is broken off in the middle. So it is. And ")
            if number % 3 == 2:
                session.send("cancel")
                session.send("session.close")
                session.until("closed")
        assert ingress.sessions.counters()["sessions_open"] == 0
        del session  # the client's end
    assert not left()


def test_too_many_wrong_messages_end_a_session(ingress):
    with ingress.connected() as session:
        session.configure()
        for _ in range(live_session.MOST_WRONG):
            session.socket.send_text("{")
        events = session.until("closed")
        assert events[-2]["code"] == "misused" and events[-1]["code"] == 1008


def test_no_more_is_read_than_can_be_spoken(tmp_path):
    ingress = Ingress(tmp_path, limits=Limits(sessions={"max_unspoken": 300}))
    ingress.pipeline.holds = 0.2
    with ingress.connected() as session:
        session.configure()
        for number in range(8):
            session.send("input.text", text=f"Number {number}.")
            session.send("input.done")
        time.sleep(0.1)
        (open_session,) = ingress.sessions._open
        assert 3 <= len(open_session._unfinished) <= 4, "each counts with 100 characters at least"
        assert [session.until("session.done")[-1]["utterance_index"] for _ in range(8)] == list(range(8))


def test_a_draining_service_finishes_what_it_says_and_closes(ingress):
    ingress.pipeline.holds = 0.5
    with ingress.connected() as session:
        session.configure()
        session.send("input.text", text="It is said to its end.")
        session.send("input.done")
        while not ingress.pipeline.said:
            time.sleep(0.01)
        ingress.sessions.drain()
        events = session.until("closed")
        assert kinds(events)[-3:] == ["session.done", "error", "closed"] and events[-1]["code"] == 1001
        assert "error" not in events[-3]
    with ingress.connected() as session:
        assert session.event()["code"] == "draining"


def test_a_draining_service_finishes_every_utterance_that_had_begun(ingress):
    ingress.pipeline.holds = 0.2
    with ingress.connected() as session:
        session.configure(split_granularity="sentence")
        session.send("input.text", text="The first one is being said. And the rest of it")
        session.until("audio.done")
        ingress.admission.drain()  # as `CosyVoice3Api.drain` does
        ingress.sessions.drain()
        session.send("input.text", text=" comes later.")
        session.send("input.done")
        events = session.until("closed")
        assert kinds(events) == ["audio.start", "audio.done", "session.done", "error", "closed"]
        assert events[-1]["code"] == 1001 and events[-2]["code"] == "draining"


def test_who_types_on_while_the_service_stops_is_told_once_and_is_not_misusing_it(ingress):
    ingress.pipeline.holds = 0.5
    with ingress.connected() as session:
        session.configure()
        session.send("input.text", text="It is said to its end.")
        session.send("input.done")
        while not ingress.pipeline.said:
            time.sleep(0.01)
        ingress.sessions.drain()
        for number in range(2 * live_session.MOST_WRONG):
            session.send("input.text", text=f"word {number} ")
        events = session.until("closed")
        assert kinds(events) == ["error", "audio.start", "audio.done", "session.done", "error", "closed"]
        assert events[0]["code"] == "draining" and events[-1]["code"] == 1001


def keys(tmp_path, *roles: str) -> tuple[str, str]:
    file = tmp_path / "keys.yaml"
    editor = KeyEditor(file)
    return str(file), editor.add("alice", roles=roles)


def test_a_key_comes_in_a_header_or_in_the_first_message(tmp_path):
    file, key = keys(tmp_path, "synthesize")
    ingress = Ingress(tmp_path, keys_file=file, required=True)
    with ingress.connected(headers={"Authorization": f"Bearer {key}"}) as session:
        assert session.configure()["type"] == "session.configured"
    with ingress.connected() as session:
        assert session.configure(api_key=key)["type"] == "session.configured"
        assert session.say("It is said.")[-1]["total_sentences"] == 1
    with ingress.connected() as session:
        assert session.configure()["code"] == "key_missing" and session.event()["code"] == 1008
    with ingress.connected() as session:
        assert session.configure(api_key="cosygraph_wrong")["code"] == "key_unknown"
    with pytest.raises(WebSocketDenialResponse) as refused, ingress.connected(headers={"X-API-Key": "wrong"}):
        pass
    assert refused.value.status_code == 401 and refused.value.json()["error"]["code"] == "key_unknown"
    assert len(refused.value.headers["X-Trace-Id"]) == 32
    assert key not in json.dumps(ingress.traces())


def test_a_key_needs_the_role(tmp_path):
    file, key = keys(tmp_path, "view-traces")
    ingress = Ingress(tmp_path, keys_file=file, required=True)
    with pytest.raises(WebSocketDenialResponse) as refused, ingress.connected(headers={"X-API-Key": key}):
        pass
    assert refused.value.status_code == 403


@pytest.mark.parametrize(
    "origin, allowed, taken",
    [
        ("http://testserver", (), True),
        ("https://evil.example", (), False),
        ("null", (), False),
        ("https://app.example", ("https://app.example",), True),
        ("https://evil.example", ("*",), True),
    ],
)
def test_a_page_of_another_origin_needs_to_be_allowed(tmp_path, origin, allowed, taken):
    ingress = Ingress(tmp_path, cors=Cors(allowed_origins=allowed))
    if taken:
        with ingress.connected(headers={"Origin": origin}) as session:
            assert session.configure()["type"] == "session.configured"
        return
    with pytest.raises(WebSocketDenialResponse) as refused, ingress.connected(headers={"Origin": origin}):
        pass
    assert refused.value.json()["error"]["code"] == "origin_not_allowed"


def test_an_utterances_parent_comes_with_its_text(ingress):
    trace = "463ac35c9f6413ad48485a3953bb6124"
    with ingress.connected(headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}) as session:
        session.configure()
        session.send("input.text", text="It is ", traceparent=f"00-{trace}-a2fb4a1d1a96d312-01")
        assert session.say("said.")[-1]["trace_id"] == trace
        assert session.say("So it is.")[-1]["trace_id"] not in (trace, "1" * 32)


def test_a_plain_request_is_told_what_this_is(tmp_path):
    from unittest.mock import Mock

    from deployments.ingress.app import build

    answer = TestClient(build(Mock()), raise_server_exceptions=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deployments.ingress.app.context_of", lambda request: Mock())
        found = answer.get(LIVE)
    assert found.status_code == 426 and "ws://" in found.json()["error"]["message"]
    assert found.headers["Upgrade"] == "websocket"


def test_an_engine_with_live_text_says_it_by_token(tmp_path):
    ingress = Ingress(tmp_path, live_text=True)
    with ingress.connected() as session:
        assert session.configure(split_granularity="token", stream_audio=True)["type"] == "session.configured"
        session.send("input.text", text="It is \ud83d")
        started = session.until("audio.start")[-1]
        assert (started["sentence_index"], started["sentence_text"]) == (0, "It is "), "before any clause is complete"
        events = session.say("\ude00 a fi", "ne day")
        assert kinds(events) == ["audio.done", "session.done"], "one sentence, however its text came"
        assert events[0]["seconds"] == events[1]["seconds"] == sum(map(len, session.audio)) / 2 / RATE
        assert session.say("Again.")[-1]["utterance_index"] == 1
    assert ingress.pipeline.said[0].strip() == "It is" and "It is \U0001f600 a fine day" in ingress.pipeline.said
    first = next(root for root in ingress.roots() if root.tags[vocabulary.SESSION_EVENT] == "utterance")
    assert first.tags[vocabulary.TEXT_LENGTH] == str(len("It is \U0001f600 a fine day"))
    assert [note["value"] for note in first.spans[0]["annotations"]] == [vocabulary.FIRST_PIECE, vocabulary.FIRST_CHUNK]


def test_by_token_a_slow_listener_holds_no_place_in_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(live_session, "AHEAD_S", 0.1)
    ingress = Ingress(tmp_path, live_text=True)
    seen = []

    async def say(text, utterance, voice, ctx, enter, paced):
        await text.take(100, "")
        async with enter():
            for _ in range(6):
                seen.append(ctx.remaining_s())
                yield StageResult(AudioReply(np.ones(RATE // 5, np.int16), 0.2), None)
        seen.append(ingress.admission.in_flight)

    ingress.pipeline.speech_stream_live = say
    with ingress.connected() as session:
        session.configure(split_granularity="token", stream_audio=True)
        began = time.monotonic()
        assert session.say("All of the text at once.")[-1]["seconds"] == pytest.approx(1.2)
        assert time.monotonic() - began > 0.8, "the listener takes it as it is played"
    assert len(seen) == 7 and seen[-1] == 0 and seen[0] - seen[5] < 0.3


def test_by_token_a_whole_file_inside_of_json_is_one_event(tmp_path):
    ingress = Ingress(tmp_path, live_text=True)
    with ingress.connected() as session:
        session.configure(split_granularity="token", audio_encoding="base64", response_format="wav")
        session.send("input.text", text="Hello there ")
        session.until("audio.start")
        events = session.say("my friend of old.")
        (chunk,) = [event for event in events if event["type"] == "audio.chunk"]
        samples, _ = soundfile.read(io.BytesIO(base64.b64decode(chunk["audio_b64"])))
        assert chunk["chunk_id"] == 0 and len(samples) / RATE == pytest.approx(events[-1]["seconds"])
        assert (chunk["chunk_start_ms"], chunk["chunk_end_ms"]) == (0, round(events[-1]["seconds"] * 1000))


@pytest.mark.parametrize(
    "texts, code",
    [
        (("Wait [pause:1s] here",), "pause_in_session"),
        (("你好", "你好"), "text_not_in_dialect"),
        (("你好" * 20, "hello"), "text_not_in_dialect"),
        (
            (
                "[pau",
                "se:1s",
                "] and so on",
            ),
            "pause_in_session",
        ),
        (("word " * 2000,), "text_too_long"),
        (("A smile \ud83d",), "text_not_unicode"),
        (("A bell \u0007",), "text_control_character"),
        (("   ",), "text_empty"),
    ],
)
def test_a_live_text_that_can_not_be_said_is_refused(tmp_path, texts, code):
    ingress = Ingress(tmp_path, live_text=True)
    with ingress.connected() as session:
        session.configure(split_granularity="token")
        *errors, done = (event for event in session.say(*texts) if event["type"] in ("error", "session.done"))
        # What comes behind the text that is wrong may be read before it is known to be wrong, or after it.
        (error,) = [event for event in errors if event["code"] != "utterance_over"]
        assert error["code"] == code and error["error"]["param"] in ("text", "input") and done["error"]
        assert session.say("Good morning.")[-1]["utterance_index"] == 1, "the session goes on"


def test_a_live_text_may_begin_in_another_script(tmp_path):
    with Ingress(tmp_path, live_text=True).connected() as session:
        session.configure(split_granularity="token")
        assert "error" not in kinds(session.say("Привет, ", "he said ", "to me."))


def test_an_engine_without_live_text_says_so_at_once(ingress):
    with ingress.connected() as session:
        error = session.configure(split_granularity="token")
        assert (error["type"], error["code"]) == ("error", "live_text_unsupported")
        assert "clause" in error["message"] and error["error"]["param"] == "split_granularity"
