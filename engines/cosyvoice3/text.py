"""Prepares a user's text for the tokenizer: it spells numbers, keeps tags, and cuts the text into short parts.

Inline tags (`[breath]`, `<strong>…</strong>`) and pronunciations (`[j][ǐ]`, `[R][EH1][D]`) are tokens of the model:
they pass through untouched, and a text is never cut inside one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from engines.cosyvoice3.added_tokens import added_tokens, pronunciations
from engines.cosyvoice3.spelling import spelled
from speech.errors import InvalidInput
from speech.spoken import markdown

MOST = 80  #: length of a part: characters of Chinese, Japanese or Korean, else text tokens; as in the official code
_MERGE = 20  #: a last part shorter than this is said with the one before it
_DENSE = frozenset(("zh", "ja", "ko"))  #: languages whose characters are syllables or words
_KNOWN = sorted((token for token in added_tokens() if not token.startswith("<|")), key=len, reverse=True)
_TOKEN = re.compile("|".join(map(re.escape, _KNOWN)))
_SOUNDS = frozenset(pronunciations())
_ANGLE_TAG = re.compile(r"<\s*/?\s*[A-Za-z][^<>]*>")
_PAIR = re.compile(r"<(strong|laughter)>.*?</\1>", re.DOTALL)
_SENTENCE = re.compile(r"[。？！；：.?!;:…]+[\"”’')\]」』]*(?=\s|$|[^\x00-\x7f])|[。？！；：…]+[\"”’')\]」』]*")
_CLAUSE = re.compile(r"[，、,]+\s*")
_SPACE = re.compile(r"\s+")
_SIGNS = str.maketrans(dict.fromkeys("（）【】`[]", " ") | {"\n": " ", "\r": " ", "\t": " "})


def parts(text: str, language: str, count: Callable[[str], int]) -> list[str]:
    """Split `text` into its parts, in order; the model gets each of them by itself.

    Args:
        text: as `speech.text.check_text` left it.
        language: ISO 639-1, that of the requested dialect.
        count: returns the number of text tokens of a string.

    Raises:
        InvalidInput: (param `text`) `text_tag_unsupported` for an unknown tag, `text_not_speakable` if nothing remains
            to be said.
    """
    said = normalised(text, language)
    check_speakable(said)
    length = len if language in _DENSE else count
    return _cut(said, length)


def check(text: str) -> None:
    """Refuse the texts that `parts` would refuse, without reading numbers: cheap enough for the start of every request.

    Raises:
        InvalidInput: (param `text`) as `parts`.
    """
    text = markdown.plain(text)
    if _ANGLE_TAG.search(_TOKEN.sub("", text)):
        raise _unknown_tag()
    check_speakable(text)


def check_speakable(said: str) -> None:
    """Raise InvalidInput (`text_not_speakable`) for a text without a word or a pronunciation."""
    if not re.search(r"\w", _TOKEN.sub("", said)) and _SOUNDS.isdisjoint(_TOKEN.findall(said)):
        raise InvalidInput(
            "Nothing in the text can be spoken: it holds only punctuation, symbols or emoji. Write at least one word.",
            param="text",
            code="text_not_speakable",
        )


def normalised(text: str, language: str) -> str:
    """Spell numbers in `language` (Japanese: the whole text in katakana); tokens of the model stay untouched."""
    return ended(written_out(text, language), language)


def written_out(text: str, language: str) -> str:
    """Spell a text as `normalised` does, and leave its end as it is."""
    text, pieces, end = markdown.plain(text), [], 0
    for token in _TOKEN.finditer(text):
        pieces += [_plain(text[end : token.start()], language), token[0]]
        end = token.end()
    pieces.append(_plain(text[end:], language))
    return re.sub(r"\s+", " ", "".join(pieces)).strip()


def ended(said: str, language: str) -> str:
    """Return a text with a full stop, unless it has an end already; commas at its end make place for it."""
    said = re.sub(r"[，、,]+$", "。" if language in ("zh", "ja") else ".", said)
    if re.search(r"[。？！；：….?!;:][\"”’')\]」』]*$", said):
        return said
    return said + ("。" if language in ("zh", "ja") else ".")


def _plain(text: str, language: str) -> str:
    if _ANGLE_TAG.search(text):
        raise _unknown_tag()
    if not text.strip():
        return text
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return before + spelled(text.strip().translate(_SIGNS), language) + after


def _unknown_tag() -> InvalidInput:
    return InvalidInput(
        "The text holds a tag that CosyVoice3 does not know. Its tags are <strong>…</strong>, <laughter>…</laughter> "
        "and [breath], [laughter], [cough], [sigh] and the like; remove any other.",
        param="text",
        code="text_tag_unsupported",
    )


def _cut(text: str, length: Callable[[str], int]) -> list[str]:
    """Cut at ends of sentences, else of clauses, else at spaces, else anywhere but in a token."""
    pieces = [text]
    for border in (_SENTENCE, _CLAUSE, _SPACE, None):
        pieces = [
            part
            for piece in pieces
            for part in ([piece] if length(piece) <= MOST else _packed(_split(piece, border), length))
        ]
    if len(pieces) > 1 and length(pieces[-1]) < _MERGE and length(pieces[-2] + pieces[-1]) <= MOST + _MERGE:
        pieces[-2:] = [pieces[-2] + pieces[-1]]
    return [piece.strip() for piece in pieces]


def _split(text: str, border: re.Pattern | None) -> list[str]:
    """Cut `text` after every border that lies outside tokens; None: after every character outside them."""
    closed = [match.span() for match in (*_TOKEN.finditer(text), *(_PAIR.finditer(text) if border else ()))]
    ends = [match.end() for match in border.finditer(text)] if border else range(1, len(text))
    cuts = [0, *(end for end in ends if not any(start < end < stop for start, stop in closed)), len(text)]
    return [text[start:stop] for start, stop in zip(cuts, cuts[1:], strict=False) if text[start:stop].strip()]


def _packed(pieces: list[str], length: Callable[[str], int]) -> list[str]:
    """Join neighbours again as long as they fit."""
    packed: list[str] = []
    for piece in pieces:
        if packed and length(packed[-1] + piece) <= MOST:
            packed[-1] += piece
        else:
            packed.append(piece)
    return packed
