"""A multipart form with one clip in it, read under limits: one file, plain text fields, nothing twice."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from speech.audio import MAX_BYTES, check_size
from speech.errors import InvalidInput

#: Beside the clip, a form holds a few hundred characters of text; the rest is room for its boundaries.
MAX_BODY_BYTES = MAX_BYTES + 256 * 1024
MAX_FIELD_BYTES = 16 * 1024
#: A form without a file may come as one long line, whose fields nobody counts before it is read.
MAX_PLAIN_BYTES = 4 * MAX_FIELD_BYTES


@dataclass(frozen=True)
class Kind:
    """Which form it is. Names are our own words: they stand in error messages.

    Attributes:
        file: name of the field that holds the clip.
        also: other names that the same field may come under.
        text: the most important of the other fields, for whoever sends something else altogether.
    """

    file: str
    also: tuple[str, ...] = ()
    text: str = ""
    required: bool = True  #: whether the clip must be there

    @property
    def files(self) -> tuple[str, ...]:
        return self.file, *self.also


GENERATE = Kind("prompt_audio", text="text and dialect", required=False)


@dataclass(frozen=True)
class Form:
    fields: dict[str, str]
    prompt_audio: bytes | None  #: the clip, whatever its field is called


class _TooLarge(Exception):
    pass


async def read(request: Request, kind: Kind = GENERATE) -> Form:
    """Raises InvalidInput for what is not such a form, ClientDisconnect when the client leaves meanwhile."""
    kind_sent = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    plain = kind_sent == "application/x-www-form-urlencoded" and not kind.required
    if kind_sent != "multipart/form-data" and not plain:
        raise InvalidInput(
            f"The body must be multipart/form-data with the fields {kind.file} (a file), {kind.text}; "
            "with curl, use -F.",
            code="not_multipart",
        )
    if _announced(request) > MAX_BODY_BYTES:
        check_size(MAX_BYTES + 1)
    try:
        body = _limited(request, MAX_PLAIN_BYTES if plain else MAX_BODY_BYTES)
        form = await body.form(max_files=2, max_fields=32, max_part_size=MAX_FIELD_BYTES)
    except _TooLarge as error:
        if plain:
            raise InvalidInput(
                "The form is far too long; send at most 5,000 characters of text.", code="form_too_long"
            ) from error
        check_size(MAX_BYTES + 1)
        raise
    except (MultiPartException, HTTPException, UnicodeDecodeError) as error:
        raise InvalidInput(
            "The body is not a valid multipart form, or a text field in it is far too long; let your "
            "HTTP client build the form and its boundary.",
            code="malformed_form",
        ) from error
    try:
        return await _unpack(form, kind)
    finally:
        await form.close()


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


def _limited(request: Request, most: int) -> Request:
    """The same request, whose body raises once it is larger than `most` bytes, announced or not."""
    received = 0

    async def receive():
        nonlocal received
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        received += len(message.get("body", b""))
        if received > most:
            raise _TooLarge
        return message

    return Request(request.scope, receive)


async def _unpack(form, kind: Kind) -> Form:
    fields: dict[str, str] = {}
    clip: bytes | None = None
    for name, value in form.multi_items():
        if name in fields or (name in kind.files and clip is not None):
            raise InvalidInput("A form field is there twice; send each field once.", code="field_twice")
        if isinstance(value, UploadFile):
            if name not in kind.files:
                raise InvalidInput(
                    f"Only {kind.file} is a file; send the other fields as plain text (curl: -F 'text=…').",
                    code="field_is_file",
                )
            check_size(value.size or 0)
            clip = await value.read()
        elif name in kind.files:
            raise InvalidInput(
                f"The field '{name}' must be a file (curl: -F {name}=@voice.wav).", param=name, code="clip_not_a_file"
            )
        else:
            fields[name] = value
    if clip is None and kind.required:
        raise InvalidInput(
            f"The field '{kind.file}' is missing: a recording of 3 to 15 s of the voice, sent as a "
            f"file (curl: -F {kind.file}=@voice.wav).",
            param=kind.file,
            code="clip_missing",
        )
    return Form(fields, clip)
