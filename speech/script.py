"""Determines the script of a text, and checks that its dialect is written in that script.

A text of Chinese characters alone with the dialect British English is a mistake of the caller, and so is kana as
American English: the speech would be in another language than the requested one. Latin letters fit every dialect,
because names and loan words are written in them all over the world.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from speech.dialects import DIALECTS, Registry
from speech.errors import InvalidInput

#: Values of `script_of`, and of the tag `text.script`.
SCRIPTS = ("latin", "han", "kana", "hangul", "cyrillic", "greek", "other", "mixed", "none")
_BY_NAME = {
    "LATIN": "latin",
    "CJK": "han",
    "IDEOGRAPHIC": "han",
    "HIRAGANA": "kana",
    "KATAKANA": "kana",
    "KATAKANA-HIRAGANA": "kana",
    "HANGUL": "hangul",
    "CYRILLIC": "cyrillic",
    "GREEK": "greek",
}
#: Half- and full-width forms carry their width in front of their name.
_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
#: Scripts that a language is written in, beside Latin.
_OF_LANGUAGE = {
    "zh": frozenset(("han",)),
    "ja": frozenset(("kana", "han")),
    "ko": frozenset(("hangul",)),
    "ru": frozenset(("cyrillic",)),
}
_NAMES = {
    "han": "Chinese characters",
    "kana": "kana",
    "hangul": "Hangul",
    "cyrillic": "Cyrillic letters",
    "greek": "Greek letters",
    "mixed": "several scripts",
    "other": "a script that no dialect here is written in",
}
#: `<strong>`, `[breath]`, `[R][EH1][D]`: signs for an engine, not words of a language
_INLINE = re.compile(r"<\s*+(?:/\s*+)?[A-Za-z][^<>]{0,30}>|\[[a-z_-]{5,20}\]|\[[A-Z]{1,2}[0-2]?\]")
_ENOUGH = 40  #: letters that tell a text's script, whatever follows
_SHOWN = 6  #: dialects that a message names


class GrowingScript:
    """The script of a text that comes in parts; a tag must not be cut in two."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Add the next part."""
        self._counts.update(_counted(text))

    @property
    def script(self) -> str:
        """The script of the text so far, as `script_of` has it."""
        counts = self._counts.copy()
        if not counts:
            return "none"
        if counts["kana"]:
            counts["kana"] += counts.pop("han", 0)
        script, most = counts.most_common(1)[0]
        return script if most >= 0.9 * counts.total() else "mixed"

    def check(
        self, dialect: str, spoken: Iterable[str], registry: Registry = DIALECTS, *, complete: bool = True
    ) -> bool:
        """Return True if the text so far fits a dialect, and False if that is not known yet.

        Args:
            dialect: the requested code.
            spoken: codes that the running engine speaks; those that fit are named in the error.
            registry: the dialects.
            complete: no more text comes. Else a text may begin with some words of another script.

        Raises:
            InvalidInput: (param `text`) `text_not_in_dialect`: no letter is in a script of the dialect, and the text is
                complete or has 40 letters.
        """
        wanted, counts = registry.find(dialect), self._counts
        if not counts or any(script in counts for script in _scripts(wanted.language)):
            return True
        if not complete and counts.total() < _ENOUGH:
            return False
        speakable = set(spoken)
        fitting = [entry.code for entry in registry if entry.code in speakable and counts.keys() & _own(entry.language)]
        remedy = (
            f"Ask for {_listed(fitting)}" if fitting else "Write it in the language of a dialect that is spoken here"
        )
        raise InvalidInput(
            f"The text is written in {_NAMES.get(self.script, 'another script')}, and {wanted.english_name} "
            f"({wanted.code}) is not. {remedy}, or send a text in {wanted.english_name}.",
            param="text",
            code="text_not_in_dialect",
        )


def script_of(text: str) -> str:
    """Return the script of a text's letters, one of `SCRIPTS`.

    Kana with Chinese characters among them is `kana`, for that is how Japanese is written. Two scripts or more, none of
    them with nine letters in ten, are `mixed`; a text without a letter is `none`.
    """
    growing = GrowingScript()
    growing.add(text)
    return growing.script


def check_script(
    text: str, dialect: str, spoken: Iterable[str], registry: Registry = DIALECTS, *, complete: bool = True
) -> None:
    """Refuse a text that is not written in any script of its dialect.

    Args:
        text: the text to be said, with its tags.
        dialect: as for `GrowingScript.check`.
        spoken: as for `GrowingScript.check`.
        registry: the dialects.
        complete: as for `GrowingScript.check`.

    Raises:
        InvalidInput: (param `text`) `text_not_in_dialect`.
    """
    growing = GrowingScript()
    growing.add(text)
    growing.check(dialect, spoken, registry, complete=complete)


def _counted(text: str) -> Counter[str]:
    """Count a text's letters of each script, without its tags and pronunciations."""
    return Counter(_script(char) for char in _INLINE.sub(" ", text) if char.isalpha() or char == "〇")


def _script(char: str) -> str:
    name = unicodedata.name(char, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    return _BY_NAME.get(name.split(" ")[0], "other")


def _own(language: str) -> frozenset[str]:
    return _OF_LANGUAGE.get(language, frozenset(("latin",)))


def _scripts(language: str) -> frozenset[str]:
    return _own(language) | {"latin"}


def _listed(codes: list[str]) -> str:
    shown = codes[:_SHOWN]
    more = f" and {len(codes) - len(shown)} more (GET /api/dialects)" if len(codes) > len(shown) else ""
    return " or ".join((", ".join(shown[:-1]), shown[-1])) + more if len(shown) > 1 else shown[0] + more
