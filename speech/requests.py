"""A request for speech as the client sends it: plain fields in, one checked `SpeechRequest` out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from speech.dialects import DIALECTS, Dialect, Registry
from speech.errors import InvalidInput
from speech.pieces import pieces
from speech.spoken import markdown
from speech.text import check_instruction, check_long_text, check_text, check_transcript

MODES = ("fast", "instruct")
#: Those of `speech.encoding`, which brings FFmpeg along: stages know requests, and need none of that.
RESPONSE_FORMATS = ("wav", "pcm", "flac", "mp3", "opus", "aac")
STREAM_FORMATS = ("audio", "sse")
FIELDS = (
    "text",
    "dialect",
    "voice",
    "mode",
    "style_instruction",
    "prompt_text",
    "speed",
    "seed",
    "long_form",
    "response_format",
    "stream_format",
)
SPEED_RANGE = (0.5, 2.0)
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Utterance:
    """What is to be said, and how. `dialect` is a registry code, `speed` a factor, `seed` 0 … 2**32 - 1."""

    text: str
    dialect: str
    mode: str = "fast"
    style_instruction: str | None = None
    prompt_text: str | None = None
    speed: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class SpeechRequest:
    """What a client asks for: an utterance, whose text may be a long one, and the form of the answer."""

    utterance: Utterance
    dialect: Dialect
    dialect_source: str = "request"  #: request, voice or key
    voice: str | None = None  #: name or id of a stored one, in place of a clip
    long_form: bool = False
    response_format: str = "wav"
    stream_format: str | None = None  #: audio, sse, or None for one whole file

    def pieces(self, early: bool) -> list[Utterance]:
        """The utterances that are to be said one after the other.

        Args:
            early: a sentence each, for the first to be heard soon; else as few as the stages' limit allows, one for a
                text that isn't long.
        """
        if not (early or self.long_form):
            return [self.utterance]
        # Markdown goes first: emphasis and lists may begin in one piece and end in another.
        text = markdown.plain(self.utterance.text).strip() or self.utterance.text
        found = pieces(text, self.dialect.language, join=not early)
        return [replace(self.utterance, text=text) for text in found]


@dataclass(frozen=True)
class Fallback:
    """The dialect where a request names none, and whose it is: the stored voice's, or the key's."""

    dialect: str
    source: str


def parse(fields: Mapping[str, str], registry: Registry = DIALECTS, fallback: Fallback | None = None) -> SpeechRequest:
    """Check form fields. Raises InvalidInput whose `param` names the field; the client's text is never echoed."""
    for name in fields:
        if name not in FIELDS:
            raise _unknown_field(name)
    asked = fields.get("dialect") or None
    dialect = registry.find(fallback.dialect if fallback and not asked else asked)
    mode = _mode(fields.get("mode"))
    long_form = _flag(fields.get("long_form"), "long_form")
    utterance = Utterance(
        text=(check_long_text if long_form else check_text)(fields.get("text", "")),
        dialect=dialect.code,
        mode=mode,
        style_instruction=_instruction(fields.get("style_instruction"), mode),
        prompt_text=check_transcript(fields["prompt_text"]) if fields.get("prompt_text") else None,
        speed=_speed(fields.get("speed")),
        seed=_seed(fields.get("seed")),
    )
    source = fallback.source if fallback and not asked else "request"
    return SpeechRequest(
        utterance,
        dialect,
        source,
        fields.get("voice") or None,
        long_form,
        _choice(fields.get("response_format"), "response_format", RESPONSE_FORMATS, "wav"),
        _choice(fields.get("stream_format"), "stream_format", STREAM_FORMATS, None),
    )


def _choice(value: str | None, name: str, known: tuple[str, ...], default: str | None) -> str | None:
    if not value:
        return default
    if value not in known:
        raise InvalidInput(f"The field '{name}' must be one of {', '.join(known)}.", param=name, code=f"{name}_unknown")
    return value


def _flag(value: str | None, name: str) -> bool:
    if (value or "false").lower() not in ("true", "false", "1", "0"):
        raise InvalidInput(f"The field '{name}' must be true or false.", param=name, code=f"{name}_unknown")
    return (value or "").lower() in ("true", "1")


def _unknown_field(name: str) -> InvalidInput:
    near = get_close_matches(name, (*FIELDS, "prompt_audio"), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InvalidInput(
        f"The form has a field that is not known.{hint} Known fields: prompt_audio, {', '.join(FIELDS)}.",
        param=near[0] if near else None,
        code="field_unknown",
    )


def _mode(value: str | None) -> str:
    if not value:
        return "fast"
    if value not in MODES:
        raise InvalidInput(
            "The field 'mode' must be 'fast' (3s极速复刻) or 'instruct' (自然语言控制).",
            param="mode",
            code="mode_unknown",
        )
    return value


def _instruction(value: str | None, mode: str) -> str | None:
    given = bool(value and value.strip())
    if mode == "instruct":
        if not given:
            raise InvalidInput(
                "mode=instruct needs the field 'style_instruction', for example 'speak slowly' or "
                "'兴奋地说'; without one, use mode=fast.",
                param="style_instruction",
                code="instruction_missing",
            )
        return check_instruction(value)
    if given:
        # Dropping it silently would sound like an instruction that does not work.
        raise InvalidInput(
            "The field 'style_instruction' only takes effect with mode=instruct: send that mode, or "
            "leave the instruction out.",
            param="style_instruction",
            code="instruction_without_mode",
        )
    return None


def _speed(value: str | None) -> float:
    if value is None or value == "":
        return 1.0
    low, high = SPEED_RANGE
    try:
        speed = float(value)
    except ValueError:
        speed = math.nan
    if not low <= speed <= high:
        raise InvalidInput(
            f"The field 'speed' must be a number from {low:g} to {high:g}; 1 is the natural speed.",
            param="speed",
            code="speed_out_of_range",
        )
    return speed


def _seed(value: str | None) -> int:
    if value is None or value == "":
        return 0
    # int() would also take '1_000', '٣' and ' 7 '.
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= MAX_SEED):
        raise InvalidInput(
            f"The field 'seed' must be a whole number from 0 to {MAX_SEED}.", param="seed", code="seed_out_of_range"
        )
    return int(value)
