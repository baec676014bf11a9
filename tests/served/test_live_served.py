"""WebSocket sessions through Serve's own proxy: the whole way, abuse, a client that reads nothing, and the traces."""

from __future__ import annotations

import io
import re
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cluster import cli
from speech import verification
from tests.helpers.live_client import CONFIG, event, say, send, session, until
from tests.helpers.serving import App, tone
from tracing import vocabulary

ROOT = Path(__file__).parents[2]


def joined(app: App, session_id: str) -> list[list[dict]]:
    """The traces of a session, as Zipkin finds them by its id."""
    query = {"annotationQuery": f"{vocabulary.SESSION_ID}={session_id}", "limit": "50"}
    found: list[list[dict]] = httpx.get(f"{app.zipkin}/api/v2/traces", params=query, trust_env=False).json()
    return found


def test_text_that_comes_bit_by_bit_is_heard_and_each_utterance_is_a_whole_trace(fast):
    audio: list[bytes] = []
    with session(fast) as ws:
        for part in ("Good morning to you a", "ll. It is a fine d", "ay. So it"):
            send(ws, "input.text", text=part)
        early = until(ws, "audio.done", audio)
        assert early[0]["sentence_text"] == "Good morning to you all." and audio, "before the end of the text"
        done = say(ws, " is.")
        assert done["total_sentences"] == 3 and done["first_audio_ms"] > 0
        second = say(ws, "Another utterance.")
        send(ws, "session.close")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
        assert closed.value.rcvd.code == 1000
    spans = fast.trace(done["trace_id"], spans=1 + 3 * 2)
    root = next(span for span in spans if "parentId" not in span)
    assert root["name"] == "ws /v1/audio/speech/stream" and root["tags"]["pieces"] == "3"
    assert root["tags"]["stream.continuous"] == "true" or root["tags"]["stream.underrun_ms"]
    stages = sorted(span["name"] for span in spans if span is not root)
    assert stages == ["generate_mel"] * 3 + ["vocode_wav"] * 3
    fast.trace(second["trace_id"], spans=3)
    together = joined(fast, root["tags"]["session.id"])
    assert {trace[0]["traceId"] for trace in together} >= {done["trace_id"], second["trace_id"]}
    assert len(together) == 3, "the configuration, which found the voice, too"


def test_cancel_stops_the_work_and_the_session_goes_on(slow):
    with session(slow) as ws:
        send(ws, "input.text", text="This one takes a second and a half. And more of ")
        time.sleep(0.5)
        began = time.monotonic()
        send(ws, "cancel")
        done = until(ws, "session.done")[-1]
        assert done["cancelled"] and time.monotonic() - began < 1
        assert "error" not in say(ws, "It goes on.")
    spans = slow.trace(done["trace_id"], spans=2)
    assert spans[0]["traceId"] == done["trace_id"] and not any("error" in span.get("tags", {}) for span in spans)
    assert any(span.get("tags", {}).get("utterance.cancelled") == "true" for span in spans)


def test_abuse_ends_in_an_error_or_a_close_and_no_replica_suffers(ray_driver, fast):
    before = {counts["pid"] for counts in fast.counters()}
    with session(fast) as ws:
        for frame in ("{", "[]", '{"type": "nonsense"}', b"\x00", '{"type": "input.text", "text": 1}', "x" * 300_000):
            ws.send(frame)
            assert event(ws)["type"] == "error"
        for letter in "A thousand tiny fragments, one by one, make a text. " * 20:
            send(ws, "input.text", text=letter)
        assert say(ws)["total_sentences"] == 20
    with session(fast, configure=False) as ws:
        with pytest.raises(ConnectionClosed) as closed:
            ws.send(b"x" * (17 * 2**20))
            ws.recv(timeout=10)
            ws.recv(timeout=10)
        assert closed.value.rcvd is None or closed.value.rcvd.code in (1009, 1008)
    for at in range(5):  # gone at any moment, without a word
        with session(fast, configure=at > 1) as ws:
            if at > 2:
                send(ws, "input.text", text="It is going to be broken off. So it is.")
            if at > 3:
                event(ws)
            ws.socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(InvalidStatus) as refused, session(fast, False, origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403 and b"origin_not_allowed" in refused.value.response.body
    with session(fast) as ws:
        assert say(ws, "All is well.")["total_sentences"] == 1
    assert {counts["pid"] for counts in fast.counters()} == before
    end = time.monotonic() + 10
    while sum(counts["sessions_open"] for counts in fast.counters()):
        assert time.monotonic() < end, "a session was left open"
        time.sleep(0.2)


def test_a_client_that_reads_nothing_is_closed(ray_driver, fast):
    counted = sum(counts["sessions_ended_stalled"] for counts in fast.counters())
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the kernel takes megabytes for it
    small.connect(("127.0.0.1", fast.port))
    # Compressed, all of the simulated engine's tone would fit into the buffers.
    with session(fast, max_queue=1, sock=small, compression=None) as ws:
        send(ws, "session.config", **CONFIG, stream_audio=True)
        assert event(ws)["type"] == "session.configured"
        send(ws, "input.text", text="It is said and never heard by anybody. " * 60)
        send(ws, "input.done")
        end = time.monotonic() + 40
        while sum(counts["sessions_ended_stalled"] for counts in fast.counters()) == counted:
            assert time.monotonic() < end, fast.counters()
            time.sleep(0.5)
        ws.socket.shutdown(socket.SHUT_RDWR)


def test_a_plain_request_is_told_what_this_is(fast):
    answer = httpx.get(f"{fast.url}/v1/audio/speech/stream", trust_env=False)
    assert answer.status_code == 426 and answer.json()["error"]["type"] == "upgrade_required"


def test_the_documents_example_runs(fast, tmp_path, monkeypatch):
    answer = httpx.post(
        f"{fast.url}/v1/audio/voices",
        data={"name": "live-doc", "dialect": "en-GB", "consent": "I agree to this test."},
        files={"audio_sample": ("voice.wav", tone(hz=236))},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "live.md").read_text(), re.DOTALL)[1]
    code = code.replace("ws://127.0.0.1:8000", fast.url.replace("http", "ws")).replace("anna", "live-doc")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    exec(compile(code, "docs/live.md", "exec"), {})
    found = (tmp_path / "out.wav").read_bytes()
    assert verification.read(found).mark is not None
    assert cli.main(["verify", str(tmp_path / "out.wav"), "--run-dir", str(tmp_path)]) == 0


def test_say_follows_standard_input(fast, tmp_path, monkeypatch, capsys):
    clip = tmp_path / "clip.wav"
    clip.write_bytes(tone())
    text = io.BytesIO("Good morning, dear listeners of ours. C’est la vie.".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(text))
    arguments = ["say", "--follow", "--clip", str(clip), "--dialect", "en-US", "-o", str(tmp_path / "out.flac")]
    assert cli.main([*arguments, "--url", fast.url, "--run-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "dear listeners of ours." in said and "first audio" in said and "trace:" in said
    assert soundfile.info(tmp_path / "out.flac").samplerate == 24_000
    assert verification.read((tmp_path / "out.flac").read_bytes()).mark is not None
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello there.")))
    assert cli.main(["say", "--follow", "--voice", "nobody", "-o", str(tmp_path / "a.wav"), "--url", fast.url]) != 0
    assert "voice_unknown" in capsys.readouterr().err
