"""The bodies that the API takes, as models. OpenAPI is made from them; the routes read them by hand, with remedies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from speech.limits import CLIP_DURATION, CLIP_FORMATS, CLIP_SIZE, MIN_CLIP_RATE
from speech.requests import (
    Instruction,
    LongText,
    ResponseFormat,
    Seed,
    SpeechFields,
    Speed,
    StreamFormat,
    Transcript,
)
from speech.words import Granularity
from voices.enrolment import EnrolmentFields
from voices.names import MAX_NAME

#: items of a batch, as in vLLM-Omni
MAX_ITEMS = 32

Clip = Annotated[
    bytes,
    Field(
        description=f"{CLIP_DURATION} of the voice: {CLIP_FORMATS}, at least {MIN_CLIP_RATE // 1000} kHz, "
        f"at most {CLIP_SIZE}."
    ),
]
VoiceName = Annotated[
    str,
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "string"},
                {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
            ]
        }
    ),
]


class GenerateForm(SpeechFields):
    """The form of POST /api/generate: a text, and a clip or a stored voice."""

    prompt_audio: Clip | None = None


class SpeechBody(BaseModel):
    """The body of POST /v1/audio/speech, with the names that OpenAI's and vLLM-Omni's clients know."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    input: LongText
    """Text to speak."""
    instructions: Instruction | None = None
    """How to speak."""
    ref_text: Transcript | None = None
    """Transcript of the clip, if known."""
    dialect: str | None = None
    """Code of the dialect: en-US, zh-CN, zh-Sichuan …; see /api/dialects."""
    speed: Speed = 1.0
    """Factor of the natural speed."""
    seed: Seed = 0
    """Seed of the random choices."""
    response_format: ResponseFormat = "mp3"
    """File format of the answer."""
    stream_format: StreamFormat = "audio"
    """audio: in chunks as it is made; sse: events."""
    timestamps: Granularity | None = None
    """What gets a time (docs/timestamps.md); the answer is then JSON or events."""
    long_form: bool = False
    """True by itself if the input is longer than one piece."""
    model: str | None = None
    """One of GET /v1/models."""
    voice: VoiceName | None = None
    """A stored voice, or a mix of some, as anna(2)+bob(1); ignored if ref_audio is sent."""
    ref_audio: str | None = None
    """The clip as a data URL; in a multipart form also as a file."""
    language: str | None = None
    """Instead of dialect, if the engine speaks exactly one dialect of it."""
    stream: bool = True
    """false: one whole file."""
    task_type: Literal["Base", "CustomVoice"] | None = None


class BatchItem(BaseModel):
    """An item of POST /v1/audio/speech/batch; all but `input` may stand beside the items instead, for all of them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    input: LongText
    """Text to speak."""
    voice: VoiceName | None = None
    """A stored voice, or a mix of some, as anna(2)+bob(1)."""
    instructions: Instruction | None = None
    """How to speak."""
    ref_audio: str | None = None
    """The clip as a data URL."""
    ref_text: Transcript | None = None
    """Transcript of the clip, if known."""
    dialect: str | None = None
    """Code of the dialect: en-US, zh-CN, zh-Sichuan …; see /api/dialects."""
    language: str | None = None
    """Instead of dialect, if the engine speaks exactly one dialect of it."""
    speed: Speed = 1.0
    """Factor of the natural speed."""
    seed: Seed = 0
    """Seed of the random choices."""
    response_format: ResponseFormat = "wav"
    """File format of the audio."""
    timestamps: Granularity | None = None
    """What gets a time (docs/timestamps.md); its result then has `timestamps`."""
    long_form: bool = False
    """True by itself if the input is longer than one piece."""
    model: str | None = None
    """One of GET /v1/models."""
    stream: Literal[False] | None = None
    """A batch answers with whole files."""
    task_type: Literal["Base", "CustomVoice"] | None = None


class CosyVoiceForm(BaseModel):
    """All fields of CosyVoice's own paths; each path needs some of them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    tts_text: LongText
    """Text to speak."""
    prompt_text: Transcript
    """Transcript of the clip."""
    instruct_text: Instruction
    """How to speak."""
    spk_id: str
    """A stored voice, or a mix of some, as anna(2)+bob(1)."""
    prompt_wav: Clip
    dialect: str | None = None
    """Code of the dialect; see /api/dialects."""


class EnrolmentForm(EnrolmentFields):
    """The form of POST /v1/audio/voices."""

    audio_sample: Clip


class VerifyForm(BaseModel):
    """The form of POST /v1/audio/verify."""

    file: Annotated[bytes, Field(description=f"The audio to look at: {CLIP_FORMATS}, at most {CLIP_SIZE}.")]


class RenameBody(BaseModel):
    """The body of PATCH /v1/audio/voices/{voice}."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
    """The new name: letters and digits of any script, '-', '_', and '.' but not first."""
