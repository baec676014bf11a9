"""Defines a request for speech: the fields that a client sends, and `parse`, which checks them.

`parse` makes one `SpeechRequest` of plain fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from config.nearest import nearest
from speech import pauses
from speech.aligned_text import AlignedText
from speech.dialects import DIALECTS, Dialect, Registry
from speech.errors import InvalidInput
from speech.limits import MAX_INSTRUCTION, MAX_LONG_TEXT, MAX_TEXT, MAX_TRANSCRIPT
from speech.pauses import PacedText, Pauses
from speech.pieces import pieces
from speech.spoken import markdown
from speech.text import check_instruction, check_long_text, check_text, check_transcript
from speech.utterance import Utterance
from speech.words import GRANULARITIES, Granularity

Mode = Literal["fast", "instruct"]
#: The formats of `speech.encoding`, which imports FFmpeg: stages know requests, and need no FFmpeg.
ResponseFormat = Literal["wav", "pcm", "flac", "mp3", "opus", "aac"]
StreamFormat = Literal["audio", "sse"]
Fit = Literal["wait"]
MODES: tuple[str, ...] = get_args(Mode)
RESPONSE_FORMATS: tuple[str, ...] = get_args(ResponseFormat)
STREAM_FORMATS: tuple[str, ...] = get_args(StreamFormat)
FITS: tuple[str, ...] = get_args(Fit)
SPEED_RANGE = (0.5, 2.0)
MAX_SEED = 2**32 - 1

Instruction = Annotated[str, Field(max_length=MAX_INSTRUCTION)]
Transcript = Annotated[str, Field(max_length=MAX_TRANSCRIPT)]
Speed = Annotated[float, Field(ge=SPEED_RANGE[0], le=SPEED_RANGE[1])]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
LongText = Annotated[str, Field(min_length=1, max_length=MAX_LONG_TEXT)]


class SpeechFields(BaseModel):
    """The fields of a request for speech, beside its clip. OpenAPI shows them; `parse` checks them, with remedies."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    text: LongText = Field(
        description=f"Text to speak; more than {MAX_TEXT} characters only with long_form. [pause:0.5s] is a pause."
    )
    dialect: str | None = None
    """Code of the dialect: en-US, zh-CN, zh-Sichuan …; see /api/dialects. Required, except with a stored voice, which
    has its own."""
    voice: str | None = None
    """Name or id of a stored voice, instead of a clip; or a mix of some, as anna(2)+bob(1)."""
    mode: Mode = "fast"
    """fast = 3s极速复刻, instruct = 自然语言控制."""
    style_instruction: Instruction | None = None
    """How to speak; required with mode=instruct."""
    prompt_text: Transcript | None = None
    """Transcript of the clip, if known."""
    speed: Speed = 1.0
    """Factor of the natural speed."""
    seed: Seed = 0
    """Seed of the random choices."""
    long_form: bool = False
    """Split a long text by sentence, speak the pieces side by side, and join them."""
    response_format: ResponseFormat = "wav"
    """File format of the answer."""
    stream_format: StreamFormat | None = None
    """audio: in chunks as it is made; sse: events (docs/api.md); absent: one whole file."""
    timestamps: Granularity | None = None
    """What gets a time (docs/timestamps.md); the answer is then JSON or events. /api/dialects says what the engine
    knows."""
    fit: Fit | None = None
    """wait: speak when the voice is fitted to its speaker, which takes minutes; absent: speak at once."""


FIELDS = tuple(SpeechFields.model_fields)


@dataclass(frozen=True)
class SpeechRequest:
    """A client's checked request: an utterance, whose text may be long, and the form of the answer."""

    utterance: Utterance
    dialect: Dialect
    dialect_source: str = "request"  #: request, voice, key or config
    voice: str | None = None  #: name or id of a stored voice, instead of a clip
    long_form: bool = False
    response_format: str = "wav"
    stream_format: str | None = None  #: audio, sse, or None for one whole file
    waits_for_fit: bool = False  #: speak when the voice is fitted to its speaker
    paced: PacedText | None = None  #: the text with its pauses, which the utterance lacks; None if it has none
    timestamps: str | None = None  #: what gets a time, of `speech.words.GRANULARITIES`

    @property
    def written(self) -> str:
        """The text as it was written, with its pauses; offsets of words are positions in it."""
        return self.utterance.text if self.paced is None else self.paced.written

    def pieces(self, early: bool) -> list[Utterance]:
        """Return the utterances to speak one after the other.

        The texts of pieces are AlignedTexts: they know where they stand in the request's text.

        Args:
            early: one for each sentence, so that the first is heard soon. Otherwise as few as the stages' limit
                allows; one for a text that is not long, and has no pauses.
        """
        return self.paced_pieces(early)[0]

    def paced_pieces(self, early: bool) -> tuple[list[Utterance], Pauses]:
        """Return the utterances of `pieces`, and the pauses between them that the text asks for."""
        if self.paced is None:
            return [replace(self.utterance, text=text) for text in self._cut(early)], Pauses()
        parts = self.paced.parts
        texts: list[str] = []
        after: dict[int, float] = {}
        for part in parts:
            if texts:
                after[len(texts) - 1] = part.pause_s
            texts += self._cut(early, part.text)
        if self.paced.last_pause_s:
            after[len(texts) - 1] = self.paced.last_pause_s
        found = Pauses(parts[0].pause_s, after, self.paced.last_pause_s > 0)
        return [replace(self.utterance, text=text) for text in texts], found

    def _cut(self, early: bool, text: str | None = None) -> list[str]:
        text = AlignedText.of(self.utterance.text if text is None else text)
        if not (early or self.long_form):
            return [text]
        # Markdown goes first: emphasis and lists may begin in one piece and end in another. If nothing is left, the
        # engine gets the text as it is, and refuses it or says it.
        return pieces(markdown.plain(text).strip() or text, self.dialect.language, join=not early)


@dataclass(frozen=True)
class Fallback:
    """The dialect of a request that names none, and its source: the stored voice, the key or the config."""

    dialect: str
    source: str


def parse(fields: Mapping[str, str], registry: Registry = DIALECTS, fallback: Fallback | None = None) -> SpeechRequest:
    """Check the fields of a request.

    Args:
        fields: name and text of each field, as in a form.
        registry: the known dialects.
        fallback: the dialect if `fields` name none.

    Raises:
        InvalidInput: a field is unknown, missing or wrong; `param` names it. The client's text is never quoted.
    """
    for name in fields:
        if name not in FIELDS:
            raise _unknown_field(name)
    asked = fields.get("dialect") or None
    dialect = registry.find(fallback.dialect if fallback and not asked else asked)
    mode = _mode(fields.get("mode"))
    long_form = _flag(fields.get("long_form"), "long_form")
    text = (check_long_text if long_form else check_text)(fields.get("text", ""))
    paced = pauses.parse(text)
    utterance = Utterance(
        text=text if paced is None else paced.text,
        dialect=dialect.code,
        mode=mode,
        style_instruction=_instruction(fields.get("style_instruction"), mode),
        prompt_text=check_transcript(fields["prompt_text"]) if fields.get("prompt_text") else None,
        speed=_speed(fields.get("speed")),
        seed=_seed(fields.get("seed")),
        dialect_tag=dialect.tag,
    )
    source = fallback.source if fallback and not asked else "request"
    return SpeechRequest(
        utterance,
        dialect,
        source,
        fields.get("voice") or None,
        long_form,
        _choice(fields.get("response_format"), "response_format", RESPONSE_FORMATS) or _default("response_format"),
        _choice(fields.get("stream_format"), "stream_format", STREAM_FORMATS),
        _choice(fields.get("fit"), "fit", FITS) is not None,
        paced,
        _timestamps(fields),
    )


def _default(name: str) -> str:
    return str(SpeechFields.model_fields[name].default)


def _choice(value: str | None, name: str, known: tuple[str, ...]) -> str | None:
    if not value:
        return None
    if value not in known:
        raise InvalidInput(f"The field '{name}' must be one of {', '.join(known)}.", param=name, code=f"{name}_unknown")
    return value


def _timestamps(fields: Mapping[str, str]) -> str | None:
    granularity = _choice(fields.get("timestamps"), "timestamps", GRANULARITIES)
    if granularity and fields.get("stream_format") == "audio":
        raise InvalidInput(
            "A stream of bare audio (stream_format=audio) has no place for timestamps. Send stream_format=sse for "
            "events with both, or leave stream_format out for one JSON answer.",
            param="timestamps",
            code="timestamps_in_raw_stream",
        )
    return granularity


def _flag(value: str | None, name: str) -> bool:
    if (value or "false").lower() not in ("true", "false", "1", "0"):
        raise InvalidInput(f"The field '{name}' must be true or false.", param=name, code=f"{name}_unknown")
    return (value or "").lower() in ("true", "1")


def _unknown_field(name: str) -> InvalidInput:
    near = nearest(name, (*FIELDS, "prompt_audio"))
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InvalidInput(
        f"The form has a field that is not known.{hint} Known fields: prompt_audio, {', '.join(FIELDS)}.",
        param=near[0] if near else None,
        code="field_unknown",
    )


def _mode(value: str | None) -> str:
    if not value:
        return _default("mode")
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
        return check_instruction(value or "")
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
        return float(_default("speed"))
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
        return int(_default("seed"))
    # int() would also take '1_000', '٣' and ' 7 '.
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= MAX_SEED):
        raise InvalidInput(
            f"The field 'seed' must be a whole number from 0 to {MAX_SEED}.", param="seed", code="seed_out_of_range"
        )
    return int(value)
