"""`python -m cluster say --follow`: speak standard input while it is written, over a WebSocket (docs/live.md)."""

from __future__ import annotations

import base64
import codecs
import json
import mimetypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from cluster.cli_error import CliError
from cluster.say import KEY_VARIABLE, Order
from speech import pcm
from speech.encoding import Encoder
from speech.mark import Mark

PATH = "/v1/audio/speech/stream"
_READ = 4096  #: bytes of standard input at a time, as many as are there
STANDARD_OUTPUT = Path("-")  #: for PCM, which a player can take from there


def run(order: Order, source: IO[bytes] | None = None, out: TextIO | None = None) -> None:
    """Speak what comes, and write it to the order's file as it is made.

    Args:
        order: the request; its text is left aside.
        source: the text (default: standard input).
        out: where to print (default: standard output, or standard error where the audio goes there).

    Raises:
        CliError: a step fails; the message says which, and why.
    """
    piped = order.output == STANDARD_OUTPUT
    out = out or (sys.stderr if piped else sys.stdout)
    source = source or sys.stdin.buffer
    format = "pcm" if piped else order.response_format
    if not piped and not order.output.parent.is_dir():
        raise CliError(f"-o {order.output}: its folder does not exist; make it first.")
    config = _config(order)
    key = order.api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with connect(
            order.url.rstrip("/").replace("http", "ws", 1) + PATH, additional_headers=headers, proxy=None
        ) as ws:
            _send(ws, "session.config", **config)
            done = _receive(ws, order.output, format, source, out)
    except InvalidStatus as refusal:
        raise CliError(_refused(refusal, order.url)) from refusal
    except ConnectionClosed as closed:
        raise CliError(f"The session ended early ({closed}). What was made so far is in {order.output}.") from closed
    except OSError as failure:
        raise CliError(f"{order.url} can't be reached ({failure.strerror or failure}). Is the graph up?") from failure
    print(f"{done['seconds']:.1f} s of speech: {order.output}", file=out)
    if done.get("first_audio_ms") is not None:
        print(f"first audio {done['first_audio_ms']:.0f} ms after the first clause was complete", file=out)
    kept = done.get("trace_url") or f"{done['trace_id']} was not kept (`--sampling 1` of `up` keeps every one)"
    print(f"trace: {kept}", file=out)


def _config(order: Order) -> dict[str, Any]:
    if (order.voice is None) == (order.clip is None):
        raise CliError("Name the voice: either --voice NAME, a stored one, or --clip FILE, a recording of it.")
    given = {
        "voice": order.voice,
        "dialect": order.dialect,
        "instructions": order.style,
        "ref_text": order.prompt_text,
        "speed": order.speed,
        "seed": order.seed,
    }
    if order.clip is not None:
        try:
            content = order.clip.read_bytes()
        except OSError as failure:
            raise CliError(f"--clip {order.clip} can't be read ({failure.strerror}).") from failure
        kind = mimetypes.guess_type(order.clip.name)[0] or "application/octet-stream"
        given["ref_audio"] = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {
        **{name: value for name, value in given.items() if value is not None},
        "response_format": "pcm",
        "split_granularity": "clause",
        "stream_audio": True,
    }


def _receive(ws: ClientConnection, path: Path, format: str, source: IO[bytes], out: TextIO) -> dict[str, Any]:
    """Write the audio until the utterance is done; returns its last event."""
    with ExitStack() as stack:
        encoder: Encoder | None = None
        file: IO[bytes] | None = None
        rate = 0
        while True:
            message = ws.recv()
            if isinstance(message, bytes):
                assert encoder is not None and file is not None, "audio.start came before"
                file.write(encoder.add(pcm.from_pcm(np.frombuffer(message, "<i2"))))
                file.flush()
                continue
            event: dict[str, Any] = json.loads(message)
            if event["type"] == "session.configured":
                rate = event["sample_rate"]
                threading.Thread(target=_write, args=(ws, source), daemon=True).start()
            elif event["type"] == "audio.start":
                print(event["sentence_text"], file=out, flush=True)
                if encoder is None:
                    encoder = stack.enter_context(Encoder(format, rate, Mark.parse(event["aigc"])))
                    file = stack.enter_context(_open(path))
            elif event["type"] == "error":
                raise CliError(f"{event['message']} ({event['code']})")
            elif event["type"] == "session.done":
                if encoder is None or file is None:
                    raise CliError("Nothing came from standard input that could be spoken.")
                file.write(encoder.finish())
                _send(ws, "session.close")
                return event


def _open(path: Path) -> IO[bytes]:
    if path == STANDARD_OUTPUT:
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    try:
        return path.open("wb")
    except OSError as failure:
        raise CliError(f"-o {path} can't be written ({failure.strerror}).") from failure


def _write(ws: ClientConnection, source: IO[bytes]) -> None:
    """Send the text as it comes; the session's errors are told where its answers are read."""
    with suppress(ConnectionClosed):
        for text in _texts(source):
            _send(ws, "input.text", text=text)
        _send(ws, "input.done")


def _texts(source: IO[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may be cut in two
    read = getattr(source, "read1", source.read)
    while data := read(_READ):
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def _send(ws: ClientConnection, kind: str, **fields: Any) -> None:
    ws.send(json.dumps({"type": kind, **fields}))


def _refused(refusal: InvalidStatus, url: str) -> str:
    """Return the error of a handshake that was refused."""
    status = refusal.response.status_code
    try:
        found = json.loads(refusal.response.body or b"")["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{url} takes no sessions: its answer was {status}."
    hint = f"\nThe key comes from {KEY_VARIABLE} or --key-file." if status in (401, 403) else ""
    return f"{found}{hint}"
