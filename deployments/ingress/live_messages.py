"""The messages of `WS /v1/audio/speech/stream`: those of clients, checked, and those of the server, written.

Clients send JSON objects with a `type`, as vLLM-Omni's streaming speech clients do; docs/live.md has the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from config.nearest import nearest
from speech.errors import InvalidInput, SpeechError
from speech.sentences import Border

MAX_MESSAGE = 128 * 1024  #: characters
MAX_CONFIG = 8 * 2**20  #: the same of `session.config`, which may hold a clip

CONFIG, TEXT, DONE, CANCEL, CLOSE = "session.config", "input.text", "input.done", "cancel", "session.close"
#: The fields of each message, beside `type`.
FIELDS: Mapping[str, tuple[str, ...]] = {
    CONFIG: (
        *("api_key", "model", "voice", "speaker", "ref_audio", "ref_text", "instructions", "dialect", "language"),
        *("speed", "seed", "response_format", "task_type", "split_granularity", "stream_audio", "audio_encoding"),
        "word_timestamps",
    ),
    TEXT: ("text", "traceparent"),
    DONE: (),
    CANCEL: (),
    CLOSE: (),
}
#: Fields of vLLM-Omni's that steer a model which is not here. Their clients send them as null, which says nothing.
_OTHERS = (
    *("max_new_tokens", "initial_codec_chunk_frames", "non_streaming_mode", "x_vector_only_mode"),
    "speaker_embedding",
)
#: `token`: the text is not cut; the engine says it while it comes.
GRANULARITIES: Mapping[str, Border | None] = {
    "token": None,
    "none": None,
    "sentence": Border.SENTENCE,
    "clause": Border.CLAUSE,
}
ENCODINGS = ("binary", "base64")

AudioEncoding = Literal["binary", "base64"]


@dataclass(frozen=True)
class Message:
    """A checked message of a client."""

    type: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class AudioForm:
    """The form in which a session's audio is sent.

    Attributes:
        granularity: where the text is cut while it is written; None: nowhere, so speech begins with `input.done`.
        by_token: nowhere, and the engine says the text while it comes (`Capabilities.live_text`).
        chunked: audio is sent while it is made. Otherwise each sentence is one frame.
        base64: audio is sent inside of JSON.
        words: the words' times are sent too, where the engine knows them.
    """

    granularity: Border | None = None
    by_token: bool = False
    chunked: bool = False
    base64: bool = False
    words: bool = False


def is_cancel(message: Mapping[str, Any]) -> bool:
    """Return whether an ASGI message is a client's `cancel`."""
    text = message.get("text")
    if text is None or f'"{CANCEL}"' not in text or len(text) > MAX_MESSAGE:
        return False
    try:
        return parse(text).type == CANCEL
    except SpeechError:
        return False


def parse(text: str | None) -> Message:
    """Check one message.

    Args:
        text: as it came; None for a binary one.

    Raises:
        InvalidInput: it is no message of ours; what the client wrote is not quoted.
    """
    if text is None:
        raise _refuse(
            "Messages are JSON texts, and this one is binary. Send `input.text` with the text to speak.",
            "message_binary",
        )
    if len(text) > MAX_CONFIG:
        raise _too_long(MAX_CONFIG)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _refuse(
            'The message is no JSON object. Send for example {"type": "input.text", "text": "Hello."}.', "not_json"
        )
    kind = found.pop("type", None)
    if not isinstance(kind, str) or kind not in FIELDS:
        near = nearest(kind, FIELDS) if isinstance(kind, str) else []
        raise _refuse(
            f"The message's 'type' is not known.{_hint(near)} It must be one of {', '.join(FIELDS)}.",
            "message_type_unknown",
            "type",
        )
    if kind != CONFIG and len(text) > MAX_MESSAGE:
        raise _too_long(MAX_MESSAGE)
    fields = {name: value for name, value in found.items() if value is not None}
    for name in fields:
        if name not in FIELDS[kind]:
            raise _field_unknown(name, kind)
    return Message(kind, fields)


def text_of(message: Message) -> str:
    """Return the text of `input.text`. Raises InvalidInput."""
    text = message.fields.get("text", "")
    if not isinstance(text, str):
        raise _refuse("The field 'text' of input.text must be a text.", "field_type", "text")
    return text


def traceparent_of(message: Message) -> str | None:
    """Return the `traceparent` of `input.text`. Raises InvalidInput."""
    value = message.fields.get("traceparent")
    if value is not None and not isinstance(value, str):
        raise _refuse(
            "The field 'traceparent' must be a text, as W3C's trace context has it.", "field_type", "traceparent"
        )
    return value


def audio_form(fields: Mapping[str, Any]) -> AudioForm:
    """Read the fields of `session.config` that say how the audio is sent. Raises InvalidInput."""
    words = _flag(fields, "word_timestamps")
    encoding = _choice(fields, "audio_encoding", ENCODINGS, "base64" if words else "binary")
    granularity = _choice(fields, "split_granularity", GRANULARITIES, "none")
    return AudioForm(
        GRANULARITIES[granularity], granularity == "token", _flag(fields, "stream_audio"), encoding == "base64", words
    )


def speech_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `session.config` that say what is spoken and how, by the names of `/v1/audio/speech`."""
    own = ("api_key", "split_granularity", "stream_audio", "audio_encoding", "word_timestamps", "speaker")
    found = {name: value for name, value in fields.items() if name not in own}
    if "speaker" in fields:
        found.setdefault("voice", fields["speaker"])
    return found


def error(problem: SpeechError, **more: Any) -> dict[str, Any]:
    """Return the event that tells of an error: the body of an HTTP answer, and its message once more on top.

    vLLM-Omni's clients read the message there.
    """
    known = {name: value for name, value in more.items() if value is not None}
    if problem.retry_after_s is not None:
        known["retry_after_s"] = problem.retry_after_s
    return {
        "type": "error",
        "message": problem.message,
        "code": problem.code or problem.type,
        **problem.body(),
        **known,
    }


def written(event: Mapping[str, Any]) -> str:
    """Return a server's message as it is sent."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _choice(fields: Mapping[str, Any], name: str, known: Iterable[str], default: str) -> str:
    value = fields.get(name, default)
    if value not in tuple(known):
        raise _refuse(f"The field '{name}' must be one of {', '.join(known)}.", f"{name}_unknown", name)
    return str(value)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise _refuse(f"The field '{name}' must be true or false.", "field_type", name)
    return value


def _field_unknown(name: str, kind: str) -> InvalidInput:
    if kind == CONFIG and name in _OTHERS:
        return _refuse(
            f"The field '{name}' steers a model that is not here; leave it out.", "field_not_supported", name
        )
    known = FIELDS[kind]
    near = nearest(name, known)
    listed = f" Its fields: {', '.join(known)}." if known else " It has none beside 'type'."
    return _refuse(
        f"The message {kind} has a field that is not known.{_hint(near)}{listed}",
        "field_unknown",
        near[0] if near else None,
    )


def _hint(near: list[str]) -> str:
    return f" Did you mean '{near[0]}'?" if near else ""


def _too_long(limit: int) -> InvalidInput:
    return _refuse(
        f"The message is longer than {limit // 1024} K characters. Send a long text in several messages, and a shorter "
        "clip.",
        "message_too_long",
    )


def _refuse(message: str, code: str, param: str | None = None) -> InvalidInput:
    return InvalidInput(message, param=param, code=code)
