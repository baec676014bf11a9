"""examples/live.py sends what standard input brings, byte for byte, against a stand-in of the session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from websockets.sync.server import serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "live.py"


@pytest.fixture
def speak(tmp_path):
    """Run the example with parts of standard input; returns the texts that it sent, and how it ended."""
    sent: list[str] = []

    def session(ws) -> None:
        ws.recv()
        ws.send(json.dumps({"type": "session.configured", "channels": 1, "sample_rate": 24_000}))
        while (event := json.loads(ws.recv()))["type"] == "input.text":
            sent.append(event["text"])
        done = {"type": "session.done", "utterance_index": 0, "total_sentences": 0}
        ws.send(json.dumps({**done, "trace_id": "abc"} if "".join(sent).strip() else done))
        ws.recv(timeout=5)

    with serve(session, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"

        def run(*parts: bytes) -> tuple[list[str], subprocess.CompletedProcess]:
            reader, writer = os.pipe()
            with subprocess.Popen(
                [sys.executable, str(EXAMPLE), "anna", "out.wav"],
                cwd=tmp_path,
                env={**os.environ, "COSYGRAPH_URL": url, "NO_PROXY": "*"},
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                os.close(reader)
                for number, part in enumerate(parts, 1):
                    os.write(writer, part)
                    # The example reads each part by itself: a part that ends in half a character shows only the rest.
                    while len("".join(sent).encode()) < len(b"".join(parts[:number])) - 3 and process.poll() is None:
                        threading.Event().wait(0.01)
                os.close(writer)
                out, err = process.communicate(timeout=60)
            return sent, subprocess.CompletedProcess(process.args, process.returncode, out.decode(), err.decode())

        yield run
        server.shutdown()


def test_a_character_that_is_cut_in_two_is_sent_once(speak):
    sent, done = speak("One, ü".encode()[:-1], "ü and 你".encode()[1:-2], "你.".encode()[1:])
    assert "".join(sent) == "One, ü and 你." and done.returncode == 0 and "trace abc" in done.stdout


@pytest.mark.parametrize(
    "parts", [(b"Caf\xe9 au lait. Bon.",), (b"Caf\xe9 au", b" lait. Bon."), (b"Caf", b"\xe9", b" au lait. Bon.")]
)
def test_a_byte_that_is_no_utf8_doubles_nothing(speak, parts):
    sent, done = speak(*parts)
    assert "".join(sent) == "Caf\ufffd au lait. Bon." and done.returncode == 0


def test_a_text_that_ends_in_half_a_character_says_so(speak):
    assert "".join(speak(b"Good \xe4\xbd")[0]) == "Good \ufffd"


@pytest.mark.parametrize("nothing", [b"", b" \n"])
def test_nothing_to_say_is_told_without_a_traceback(speak, nothing):
    _, done = speak(nothing)
    assert done.returncode == 1 and done.stderr.strip() == "Nothing came from standard input that could be spoken."
