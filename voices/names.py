"""Names of voices: a word in any script, safe in a URL, and different from every id."""

from __future__ import annotations

import unicodedata

from speech.errors import InvalidInput

MAX_NAME = 64
ID_PREFIX = "voice_"

_MARKS = "-_."
#: NFC shortens text by at most this factor, so longer text is refused before any work on it.
_SHRINKS_AT_MOST = 8
#: Invisible letters and marks (Default_Ignorable_Code_Point in Unicode's DerivedCoreProperties.txt, of category L or
#: M): with them two names could look the same.
_INVISIBLE = frozenset(
    {
        0x034F,
        0x115F,
        0x1160,
        0x17B4,
        0x17B5,
        *range(0x180B, 0x1810),
        0x3164,
        *range(0xFE00, 0xFE10),
        0xFFA0,
        *range(0xE0100, 0xE01F0),
    }
)


def check_name(name: str) -> str:
    """Return the name in NFC.

    A name has 1 to `MAX_NAME` characters: letters, their marks and digits of any script, `-`, `_`, and `.` but not
    first.

    Raises:
        InvalidInput: param `name`.
    """
    if not name:
        raise _refuse(
            f"The field 'name' is missing: send the voice's name, 1 to {MAX_NAME} letters and digits.", "name_missing"
        )
    if len(name) > MAX_NAME * _SHRINKS_AT_MOST or len(normal := unicodedata.normalize("NFC", name)) > MAX_NAME:
        raise _refuse(f"The name is too long: at most {MAX_NAME} characters.", "name_too_long")
    if not all(map(_allowed, normal)):
        raise _refuse(
            "The name holds a character that is not allowed. Use letters and digits of any script, '-', '_' "
            "and '.'; no spaces, slashes, symbols or invisible characters.",
            "name_character",
        )
    if normal[0] == "." or unicodedata.category(normal[0])[0] == "M":
        raise _refuse("The name must begin with a letter, a digit, '-' or '_'.", "name_start")
    if looks_like_an_id(normal):
        raise _refuse(f"The name must not begin with '{ID_PREFIX}': that is how ids begin.", "name_like_an_id")
    return normal


def looks_like_an_id(text: str) -> bool:
    """Tell whether a name begins like an id, also in capitals or full-width letters."""
    return unicodedata.normalize("NFKC", text).casefold().startswith(ID_PREFIX)


def as_stored(name: str) -> str | None:
    """Return a name to look up, in NFC; None if it can't be a name."""
    return None if len(name) > MAX_NAME * _SHRINKS_AT_MOST else unicodedata.normalize("NFC", name)


def _allowed(char: str) -> bool:
    category = unicodedata.category(char)
    return char in _MARKS or (ord(char) not in _INVISIBLE and (category[0] in "LM" or category == "Nd"))


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="name", code=code)
