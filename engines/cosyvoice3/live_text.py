"""Makes final tokens of a text that is still coming.

A token must not change when more text comes, since the model may have read it. So a text is handed over in stretches.
Each is written out and tokenised by itself, as soon as it is final. The places between them follow from the text up
to the word after them, so they are the same for any fragments in which the text comes:

- between two whole words, when both hold letters only. A word is whole when a space follows it. Numbers, signs,
  abbreviations, names and capitals stay together with their neighbours, because their reading depends on them.
- in Chinese and Japanese, at a clause's punctuation between letters, when the character after it is known.
- at a line's end. A line that begins with a sign (a list, a heading, a table) is handed over as a whole.
- not inside brackets or marks of emphasis.
- after many characters without such a place, at the next space, or anywhere between letters.

A part of the text ends at the first such place behind a sentence if it has `_SENTENCE` tokens by then; behind a
clause it needs `_CLAUSE`, elsewhere `_ANYWHERE`. The model starts afresh with the next part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from engines.cosyvoice3 import text as texts
from speech.abbreviations import is_abbreviation

_SENTENCE, _CLAUSE, _ANYWHERE = 30, 60, 80  #: text tokens
_LONG = {True: 60, False: 160}  #: characters after which a stretch ends anywhere; True: in a dense script
_DENSE = frozenset(("zh", "ja"))
_WORD = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
_BEFORE = re.compile(rf"({_WORD})([,;:!?…]{{0,3}}|\.)")
_AFTER = re.compile(rf"({_WORD})[,;:.!?…]*")
_SINGLE = frozenset("AIOEYÀÈÉВИКОСУЯ")  #: words of one capital letter
_ENDS = "。？！；….?!;"
_CLAUSES = "，、：,:"
_MARKS = re.compile(rf"[{_ENDS}{_CLAUSES}—～~”’」』）)》】]+")
#: the beginning of a line that Markdown takes as a whole: heading, quotation, table, fence, list
_BLOCK = re.compile(r"[ \t]*(?:[#>|~=]|```|[*+•‣◦▪●-]\s|\d{1,3}[.)]\s)")
_EMPHASIS = "*_`~"
_BRACKETS = {
    "(": ")",
    "[": "]",
    "{": "}",
    "<": ">",
    "（": "）",
    "《": "》",
    "“": "”",
    "「": "」",
    "『": "』",
    "【": "】",
}
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef\u3000-\u303f]")


@dataclass
class LivePart:
    """A part of a text that is said while it comes.

    Attributes:
        ids: its text tokens so far.
        open: more of it will come.
    """

    ids: list[int] = field(default_factory=list)
    open: bool = True
    said: str = ""


def parts(text: str, language: str, open: bool, ids: Callable[[str], list[int]]) -> list[LivePart]:
    """Return the parts of a text. All but the last are complete; so is the last unless the text is open.

    Args:
        text: all text so far.
        language: ISO 639-1, that of the dialect.
        open: True: more will come; the end that is not final is left out.
        ids: returns the tokens of a string.

    Raises:
        InvalidInput: (param `text`) as `texts.parts`; `text_not_speakable` only for a text that is complete.
    """
    found = [LivePart()]
    stretches = split(text, language, open)
    for number, stretch in enumerate(stretches):
        said = texts.written_out(stretch, language)
        if not re.search(r"\w", said):
            continue
        part, last = found[-1], not open and number == len(stretches) - 1
        mark = said[0] if said[0] in _ENDS + _CLAUSES else ""
        if _ends(part, mark):
            if mark:
                _add(part, mark, ids)
            part.open = False
            found.append(part := LivePart())
            said = said.removeprefix(mark)
        said = texts.ended(said, language) if last else said
        gap = stretch[:1].isspace() and part.said and not (_CJK.match(said) or _CJK.match(part.said[-1]))
        _add(part, f" {said}" if gap else said, ids)
    if not open:
        texts.check_speakable(" ".join(part.said for part in found))
        part = found[-1]
        part.open = False
        _add(part, texts.ended(part.said, language).removeprefix(part.said), ids)
    return found


def _add(part: LivePart, said: str, ids: Callable[[str], list[int]]) -> None:
    part.ids += ids(said)
    part.said += said


def _ends(part: LivePart, mark: str) -> bool:
    """Tell if a part ends before a stretch that begins with `mark`, or with a word."""
    behind = mark or part.said.rstrip("\"”’')]」』）")[-1:]
    least = _SENTENCE if behind and behind in _ENDS else _CLAUSE if behind and behind in _CLAUSES else _ANYWHERE
    return len(part.ids) >= least


def split(text: str, language: str, open: bool) -> list[str]:
    """Cut a text into its stretches; together they are the text, or its beginning if it is open."""
    dense = language in _DENSE
    places = _dense_places(text) if dense else _spaces(text, open)
    found, start = [], 0
    for place, allowed in places:
        if allowed(start, language) and place > start and text[start:place].strip():
            found.append(text[start:place])
            start = place
    if not open and text[start:].strip():
        found.append(text[start:])
    return found


Allowed = Callable[[int, str], bool]


def _spaces(text: str, open: bool) -> list[tuple[int, Allowed]]:
    """Return the places before spaces, each with the rule for a stretch that begins at a given place."""
    found: list[tuple[int, Allowed]] = []
    words = [match.span() for match in re.finditer(r"\S+", text)]
    for before, after in zip(words, words[1:], strict=False):
        if open and after[1] == len(text):
            break  # it may go on
        found.append((before[1], _Space(text, before, after)))
    return found


@dataclass(frozen=True)
class _Space:
    """The rule for a place between two words, which are given by their ends in the text."""

    text: str
    before: tuple[int, int]
    after: tuple[int, int]

    def __call__(self, start: int, language: str) -> bool:
        pending = self.text[start : self.before[1]]
        if len(pending) >= _LONG[False]:
            return True
        special = _BLOCK.match(self.text, self.text.rfind("\n", 0, self.before[1]) + 1) is not None
        word = self.text[slice(*self.before)]
        following = self.text[slice(*self.after)]
        if "\n" in self.text[self.before[1] : self.after[0]]:
            whole = _BEFORE.fullmatch(word)
            return special or whole is not None and _is_word(whole, language, following[:1].upper())
        if special or not _closed(pending):
            return False
        whole, next_word = _BEFORE.fullmatch(word), _AFTER.fullmatch(following)
        return (
            whole is not None
            and next_word is not None
            and _is_word(whole, language, following)
            and _is_plain(next_word[1])
            and not (word[:1].isupper() and following[:1].isupper() and word[-1:].isalpha())  # a name: Main St.
        )


def _is_word(match: re.Match[str], language: str, following: str) -> bool:
    """Tell if a word is read by itself: letters only, and a full stop only at a sentence's end."""
    word, mark = match[1], match[2]
    if mark == "." and (len(word) < 2 or not following[:1].isupper() or is_abbreviation(word, language, following[:1])):
        return False
    return _is_plain(word)


def _is_plain(word: str) -> bool:
    """Tell if a word is no abbreviation, initial or Roman number: not in capitals throughout."""
    if len(word) == 1:
        return not word.isupper() or word in _SINGLE
    return not word.isupper()


def _closed(text: str) -> bool:
    """Tell if all brackets and marks of emphasis in a text are closed."""
    if any(text.count(sign) % 2 for sign in _EMPHASIS):
        return False
    return all(text.count(opens) == text.count(closes) for opens, closes in _BRACKETS.items())


def _dense_places(text: str) -> list[tuple[int, Allowed]]:
    """Return the places at punctuation and line ends, and those between letters that long stretches need."""
    found: dict[int, Allowed] = {}
    for match in _MARKS.finditer(text):
        before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        wide = any(ord(sign) > 0x2E7F or sign == "…" for sign in match[0]) or _CJK.match(before) and _CJK.match(after)
        if before.isalpha() and after.isalpha() and wide:
            # A single mark is tokenised with the letters after it.
            place = match.start() if len(match[0]) == 1 else match.end()
            found[place] = _Balanced(text, place)
    for match in re.finditer(r"(?<!\d)\s*\n\s*(?=\S)", text):
        found[match.start()] = lambda start, language: True
    for place in range(_LONG[True], len(text) - 1):
        if _CJK.match(text[place - 1]) and text[place - 1].isalpha() and text[place].isalpha():
            found.setdefault(place, _Late(place))
    return sorted(found.items())


@dataclass(frozen=True)
class _Balanced:
    """The rule for a place at punctuation."""

    text: str
    place: int

    def __call__(self, start: int, language: str) -> bool:
        return _closed(self.text[start : self.place])


@dataclass(frozen=True)
class _Late:
    """The rule for a place between letters: only a long stretch ends there."""

    place: int

    def __call__(self, start: int, language: str) -> bool:
        return self.place - start >= _LONG[True]
