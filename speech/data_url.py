"""Decodes a clip inside a request's JSON, a data URL: `data:audio/wav;base64,UklGR…`.

Nothing is ever fetched: a server that opens its callers' URLs would open them inside its own network.
"""

from __future__ import annotations

import base64
import binascii
import re

from speech.errors import InvalidInput
from speech.limits import CLIP_DURATION

#: RFC 2397; parameters such as `codecs=opus` may stand before `base64`
_HEAD = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[\w.+-]+)*(?P<base64>;base64)?\Z", re.IGNORECASE)
_LONGEST_HEAD = 200
_FORM = "Send the clip as data:audio/wav;base64,…"


def decode(url: str, limit_bytes: int) -> bytes:
    """Return the bytes in a data URL of a media type `audio/…` or `application/octet-stream`.

    Args:
        url: the data URL.
        limit_bytes: the most bytes; a longer URL is refused before any byte is decoded.

    Raises:
        InvalidInput: param `ref_audio`; code `url_not_allowed` for another scheme, `data_url_malformed`,
            `media_type_unsupported`, `clip_empty` or `clip_too_large`.
    """
    if url[:5].lower() != "data:":
        raise _refuse(
            "The field 'ref_audio' must be a data URL: this service fetches no other address. "
            f"{_FORM}, or upload it as a file.",
            "url_not_allowed",
        )
    comma = url.find(",", 0, _LONGEST_HEAD)
    head = _HEAD.match(url[:comma]) if comma > 0 else None
    if head is None or not head["base64"]:
        raise _refuse(f"The data URL has no media type, or its data are not base64. {_FORM}.", "data_url_malformed")
    media_type = head["type"].lower()
    if not media_type.startswith("audio/") and media_type != "application/octet-stream":
        raise _refuse(f"The data URL's media type is not one of audio. {_FORM}.", "media_type_unsupported")
    size = len(url) - comma - 1
    if size == 0:
        raise _refuse(f"The data URL holds no data. {_FORM}.", "clip_empty")
    if size > -(-limit_bytes // 3) * 4:
        raise _too_large(limit_bytes)
    try:
        data = base64.b64decode(url[comma + 1 :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refuse(
            "The data URL's base64 is damaged or cut off. Encode the file again, with the alphabet of "
            "RFC 4648, section 4, with padding and without line breaks.",
            "data_url_malformed",
        ) from error
    if len(data) > limit_bytes:
        raise _too_large(limit_bytes)
    return data


def _too_large(limit_bytes: int) -> InvalidInput:
    limit = f"{limit_bytes / 2**20:g} MB" if limit_bytes >= 2**20 else f"{limit_bytes} bytes"
    return _refuse(
        f"The clip in the data URL is larger than {limit}; {CLIP_DURATION} of audio is enough.", "clip_too_large"
    )


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="ref_audio", code=code)
