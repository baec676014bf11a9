"""Fields of a request for speech, as OpenAI's and vLLM-Omni's clients name them, turned into those of this service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.ingress.ingress_api import IngressApi
from deployments.ingress.request_models import SpeechBody
from speech import data_url
from speech.errors import InvalidInput, NotFound
from speech.limits import MAX_CLIP_BYTES, MAX_TEXT

#: OpenAI's and vLLM-Omni's names of fields -> ours.
RENAMED = {"input": "text", "instructions": "style_instruction", "ref_text": "prompt_text"}
THEIR_NAMES = {ours: theirs for theirs, ours in RENAMED.items()} | {"prompt_audio": "ref_audio"}
SAME = ("dialect", "speed", "seed", "response_format", "stream_format", "timestamps", "long_form")
FIELDS = tuple(SpeechBody.model_fields)
#: CosyVoice3's speech tokens: 25 a second, whatever the engine.
_TOKENS_PER_SECOND = 25
OWNER = "cosygraph"  #: the owner of all models, and a name for the one that runs


def check_model(name: str, api: IngressApi) -> None:
    """Raise NotFound for a name that is no model here."""
    known = (api.engine.capabilities.name, OWNER, *api.config.aliases.models)
    if name not in known:
        raise NotFound(
            f"There is no such model here; there are {' and '.join(known)} (GET /v1/models). If your client can't send "
            "another name, the operator of this service can add it to `aliases.models`.",
            param="model",
            code="model_not_found",
        )


def fields_of(given: Mapping[str, str], clip: bytes | None, api: IngressApi) -> tuple[dict[str, str], bytes | None]:
    """Turn the fields of a `SpeechBody`, as text, into those of `speech.requests`, and the clip.

    Args:
        given: fields whose names have been checked.
        clip: the clip, if it came as a file.
        api: the ingress, for its models and dialects.

    Raises:
        InvalidInput: a field is wrong.
        NotFound: there is no such model.
    """
    if model := given.get("model"):
        check_model(model, api)
    _check_task(given, clip)
    fields = {
        ours: given[theirs] for theirs, ours in (*RENAMED.items(), *((name, name) for name in SAME)) if theirs in given
    }
    fields["mode"] = "instruct" if fields.get("style_instruction", "").strip() else "fast"
    if fields["mode"] == "fast":
        fields.pop("style_instruction", None)
    fields.setdefault("response_format", "mp3")
    if given.get("stream") != "false" and not fields.get("timestamps"):
        # Theirs answers in chunks unless it is told otherwise; with timestamps, which chunks can't hold, in one piece.
        fields.setdefault("stream_format", "audio")
    if len(fields.get("text", "")) > MAX_TEXT:
        fields.setdefault("long_form", "true")
    if "ref_audio" in given:
        clip = data_url.decode(given["ref_audio"], MAX_CLIP_BYTES)
    elif clip is None and "voice" in given:
        fields["voice"] = given["voice"]
    if "dialect" not in fields and (dialect := _dialect_of(given.get("language"), api)):
        fields["dialect"] = dialect
    return fields, clip


def _check_task(given: Mapping[str, str], clip: bytes | None) -> None:
    """Check what vLLM-Omni's clients say of the voice's origin. `CustomVoice` is a voice by its name, their default.

    Raises:
        InvalidInput: a voice is to be designed, or the one by its name is missing.
    """
    by_name = "voice" in given and "ref_audio" not in given and clip is None
    if given.get("task_type", "Base") == "Base" or given["task_type"] == "CustomVoice" and by_name:
        return
    raise InvalidInput(
        "The field 'task_type' can be Base, or CustomVoice with a stored voice in 'voice' and no clip: a voice comes "
        "from a clip or from a stored voice.",
        param="task_type",
        code="task_type_unknown",
    )


def as_form(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a JSON object as a form would have them; null is no field.

    Raises:
        InvalidInput: a value is no text, number or flag.
    """
    voice = body.get("voice")
    named = {**body, "voice": voice.get("id")} if isinstance(voice, dict) else body
    return {name: _text(name, value) for name, value in named.items() if value is not None}


def _text(name: str, value: Any) -> str:
    """Return a JSON value as a form would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    known = name if name in FIELDS else None
    raise InvalidInput(
        f"The field {known!r} must be a text, a number, or true or false."
        if known
        else "A field of the body must be a text, a number, or true or false.",
        param=known,
        code="field_type",
    )


def _dialect_of(language: str | None, api: IngressApi) -> str | None:
    """Return the dialect that a language stands for, if the engine speaks exactly one of it; None if none is named.

    Raises:
        InvalidInput: the engine speaks no dialect of the language, or several: none is taken for another.
    """
    if not language or language.lower() == "auto":
        return None
    supported = api.engine.capabilities.dialects
    spoken = [dialect for dialect in api.registry if dialect.code in supported]
    wanted = language.lower()
    exact = [dialect for dialect in spoken if wanted == dialect.code.lower()]
    matches = exact or [dialect for dialect in spoken if wanted in (dialect.language, _english(dialect.language))]
    if len(matches) == 1:
        code: str = matches[0].code
        return code
    raise InvalidInput(
        "The field 'language' names "
        + (
            "no language that the running engine speaks"
            if not matches
            else "a language of which the running engine speaks several dialects"
        )
        + f". Send 'dialect': one of {', '.join(sorted(d.code for d in matches or spoken))}.",
        param="language",
        code="language_unclear",
    )


def _english(code: str) -> str:
    return {
        "zh": "chinese",
        "en": "english",
        "ja": "japanese",
        "ko": "korean",
        "de": "german",
        "es": "spanish",
        "fr": "french",
        "it": "italian",
        "ru": "russian",
    }.get(code, code)


def usage(characters: int, seconds: float) -> dict[str, int]:
    """Return OpenAI's figures of an answer: tokens are characters in, and 25 a second of speech out."""
    tokens_in, tokens_out = characters, round(seconds * _TOKENS_PER_SECOND)
    return {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
