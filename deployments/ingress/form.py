"""Reads a form with one clip under limits: one file, plain text fields, each field once."""

from __future__ import annotations

import codecs
import re
from contextlib import aclosing
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from speech.audio import check_size
from speech.errors import InvalidInput
from speech.limits import CLIP_DURATION, MAX_CLIP_BYTES, MAX_LONG_TEXT

#: Bytes of a form beside its clip: texts, and the boundaries between the fields.
FORM_OVERHEAD_BYTES = 256 * 1024
MAX_BODY_BYTES = MAX_CLIP_BYTES + FORM_OVERHEAD_BYTES
MAX_FIELDS = 32
MAX_FIELD_BYTES = 16 * 1024
_EXTENDED_NAME = re.compile(rb";\s*filename\*(?:0\*?)?\s*=", re.IGNORECASE)
#: Codecs of Python that are no charsets.
_NO_CHARSETS = frozenset(("idna", "punycode", "undefined", "raw-unicode-escape", "unicode-escape"))
#: Of a URL-encoded form, whose fields are counted only after it is read.
MAX_PLAIN_BYTES = 4 * MAX_FIELD_BYTES


@dataclass(frozen=True)
class Kind:
    """The fields of one kind of form, as error messages name them.

    Attributes:
        file: name of the field with the clip.
        also: other names of the same field.
        text: the most important other fields, in words, for a body that is no such form.
        required: the clip must be there.
        what: what the file is, in words.
    """

    file: str
    also: tuple[str, ...] = ()
    text: str = ""
    required: bool = True
    what: str = f"a recording of {CLIP_DURATION} of the voice"

    @property
    def files(self) -> tuple[str, ...]:
        """All names of the field with the clip."""
        return self.file, *self.also


GENERATE = Kind("prompt_audio", text="text and dialect", required=False)


@dataclass(frozen=True)
class Form:
    """The text fields of a form, and its clip, whatever the clip's field is called."""

    fields: dict[str, str]
    prompt_audio: bytes | None


class _TooLarge(Exception):
    pass


class _Parser(MultiPartParser):
    """Starlette's parser, to which a part is a file by its `filename` alone.

    RFC 7578, section 4.2, forbids `filename*`; clients send it all the same for names that are not ASCII, and some send
    a file without a name. Either is a file here: by its `filename*`, or by a media type that no text field has.
    """

    def on_headers_finished(self) -> None:
        part = self._current_part
        disposition = part.content_disposition or b""
        if b"filename" not in parse_options_header(disposition)[1] and (
            _EXTENDED_NAME.search(disposition) or _is_media(dict(part.item_headers).get(b"content-type", b""))
        ):
            part.content_disposition = disposition + b'; filename="unnamed"'
        super().on_headers_finished()

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            try:
                self._current_part.data.decode(self._charset)
            except UnicodeError as error:  # Starlette would take it for Latin-1: other words, spoken all the same
                raise InvalidInput(
                    "A text field of the form is not in UTF-8, or not in the charset that its Content-Type names. Send "
                    "it in UTF-8.",
                    code="form_not_unicode",
                ) from error
        super().on_part_end()


def _check_charset(content_type: str) -> None:
    """Refuse a charset that is not known; Starlette would take it for Latin-1.

    Raises:
        InvalidInput: so it is, or it is one of Python's own codecs, some of which take time quadratic in the length.
    """
    named = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    try:
        known = codecs.lookup(named).name not in _NO_CHARSETS
        if known:
            b" ".decode(named)  # base64, rot13 and the like are codecs of another kind
    except LookupError:
        known = False
    except ValueError:  # a name with a NUL in it is none; half a character of UTF-16 is no fault of its name
        known = "\0" not in named
    if not known:
        raise InvalidInput(
            "The Content-Type of the form names a charset that is not known here. Leave it out, and send the texts in "
            "UTF-8.",
            code="charset_unknown",
        )


def _is_media(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/octet-stream" or kind.startswith((b"audio/", b"video/"))


async def read(request: Request, kind: Kind = GENERATE) -> Form:
    """Read the form of a request.

    Raises:
        InvalidInput: the body is no such form.
        ClientDisconnect: the client left meanwhile.
    """
    kind_sent = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    plain = kind_sent == "application/x-www-form-urlencoded" and not kind.required
    if kind_sent != "multipart/form-data" and not plain:
        raise InvalidInput(
            f"The body must be multipart/form-data with the fields {kind.file} (a file), {kind.text}; "
            "with curl, use -F.",
            code="not_multipart",
        )
    if _announced(request) > MAX_BODY_BYTES:
        check_size(MAX_CLIP_BYTES + 1)
    try:
        body = _limited(request, MAX_PLAIN_BYTES if plain else MAX_BODY_BYTES)
        if plain:
            form = await body.form(max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
        else:
            _check_charset(request.headers["content-type"])
            async with aclosing(body.stream()) as stream:
                form = await _Parser(
                    body.headers, stream, max_files=2, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
                ).parse()
    except _TooLarge as error:
        if plain:
            raise InvalidInput(
                f"The form is far too long; send at most {MAX_LONG_TEXT:,} characters of text.", code="form_too_long"
            ) from error
        check_size(MAX_CLIP_BYTES + 1)
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
    """Return the same request, whose body raises _TooLarge beyond `most` bytes, announced or not."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        received += len(message.get("body", b""))
        if received > most:
            raise _TooLarge
        return message

    return Request(request.scope, receive)


async def _unpack(form: FormData, kind: Kind) -> Form:
    fields: dict[str, str] = {}
    clip: bytes | None = None
    for name, value in form.multi_items():
        if name in fields or (name in kind.files and clip is not None):
            raise InvalidInput("A form field occurs twice; send each field once.", code="field_twice")
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
            f"The field '{kind.file}' is missing: {kind.what}, sent as a file (curl: -F {kind.file}=@voice.wav).",
            param=kind.file,
            code="clip_missing",
        )
    return Form(fields, clip)
