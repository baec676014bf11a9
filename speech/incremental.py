"""Cuts a text into pieces while it is still being written, so that each can be said as soon as it is complete.

A border is decided when what follows can no longer change it. After a comma that is the space behind it. Mostly it is
the first character of what comes next: that tells an abbreviation from an end (`p. 5`), and a sentence that goes on
(`"Stop!" she said`) from a new one. The text may be broken anywhere. Every decision is made at a character of the text,
never at a fragment's end, so the pieces are the same.

Three things can't be known early, and so differ from `speech.pieces`, which sees all of a text. A short sentence at
the end is said alone, because the sentence before it has been given out. A text is taken to have no capitals until its
first one comes. And a sentence longer than the limit is cut when the limit is reached, not in even parts.

    splitter = IncrementalSplitter("en", Border.CLAUSE)
    splitter.add("Good morning, ")                 # ["Good morning,"]
    splitter.add("dear listeners of ours. It is")  # ["dear listeners of ours."]
    splitter.finish()                              # ["It is"]
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator

from speech.errors import InvalidInput
from speech.inline import InlineMarks, speakable
from speech.limits import MAX_LONG_TEXT, MAX_TEXT
from speech.pieces import is_tiny, pieces
from speech.sentences import OPENERS, Border, GrowingBorders, Run
from speech.spoken import markdown

#: Signs at or after which a border may be; anything else leaves the decisions as they are.
_SIGNS = frozenset("。．｡！？；…‼⁇⁈⁉?!.;，、：,:—–-\n")
#: A bracket or a tag that may still be closed: `speech.inline` knows none that is longer.
_OPEN_BRACKET = re.compile(r"\[[^\[\]<>]{0,20}$")
_OPEN_TAG = re.compile(r"<\s*+(?:/\s*+)?(?:[A-Za-z][^<>]{0,30})?$")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
_INLINE_SIGNS = frozenset("[]<>")
#: Signs of Markdown that come in pairs. They go before the text is cut: a pair may begin in one piece and end in
#: another, and `**Note.** Next` has its full stop inside.
_RUNS = "*`"
_EMPHASIS_LEFT = re.compile(r"(?<![\w*])(?:_{1,3}|\*|~~)(?=\w)|(?<=\w)(?:_{2,3}|~~)(?!\w)")


class WholeCharacters:
    """Puts halves of surrogate pairs together, over fragments too: JSON may have cut an emoji in two."""

    def __init__(self) -> None:
        self._half = ""  # the first half of a pair

    def add(self, fragment: str) -> Iterator[str]:
        """Yield the fragment, with what the one before it left, up to a half that is none of a pair.

        Raises:
            InvalidInput: (param `text`) there is such a half.
        """
        text = self._half + fragment
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if not _HALF.search(text):
            yield text
            return
        text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
        lone = _HALF.search(text)
        yield text[: lone.start()] if lone else text
        if lone:
            raise _half_of_a_pair()

    def finish(self) -> None:
        """Raise InvalidInput (param `text`) if half of a pair is left."""
        if self._half:
            raise _half_of_a_pair()


class Uncut:
    """Gives a text's fragments out as they come, in whole characters: for an engine that says it token by token."""

    def __init__(self) -> None:
        self._characters = WholeCharacters()

    def add(self, fragment: str) -> list[str]:
        """Return the fragment, as `IncrementalSplitter.add` returns pieces; raises as it does."""
        return list(self.completed(fragment))

    def completed(self, fragment: str) -> Iterator[str]:
        """Yield the fragment, as `IncrementalSplitter.completed` yields pieces; raises as it does."""
        for found in self._characters.add(fragment):
            if found:
                yield found

    def finish(self) -> list[str]:
        """Return nothing: all of it was given out. Raises as `IncrementalSplitter.finish`."""
        self._characters.finish()
        return []


class IncrementalSplitter:
    """Splits one utterance's text.

    Args:
        language: ISO 639-1, that of the requested dialect.
        granularity: `Border.SENTENCE` or `Border.CLAUSE`: the places to cut at. None: no piece before `finish`.
        limit: the most characters of a piece.
        most: the most characters of the whole text.
    """

    def __init__(
        self, language: str, granularity: Border | None, limit: int = MAX_TEXT, most: int = MAX_LONG_TEXT
    ) -> None:
        self._language = language
        self._granularity = granularity
        self._limit = limit
        self._most = most
        self._text = ""  # from the last end of a sentence on
        self._cut = 0  # the position in `_text` after the last piece
        self._characters = WholeCharacters()
        self._run = ""  # signs of Markdown that may be more
        self._cased = False
        self._undecided = False  # a border may be in the text whose quality is not known yet
        self._open_quotes: frozenset[str] = frozenset()  # before `_text`
        self._begin("")
        self._given = 0  # pieces so far
        self.length = 0  #: characters so far, without those that are never spoken

    @property
    def empty(self) -> bool:
        """No text has come that could be spoken."""
        return not self._given and not any(speakable(self._text))

    def add(self, fragment: str) -> list[str]:
        """Add the next part of the text and return the pieces that it completes.

        Raises:
            InvalidInput: as `completed`; the pieces before the error are lost.
        """
        return list(self.completed(fragment))

    def completed(self, fragment: str) -> Iterator[str]:
        """Add the next part of the text and yield the pieces that it completes: before an error, all that precede it.

        Raises:
            InvalidInput: (param `text`) the text holds half of a surrogate pair, or is too long by now.
        """
        for part in self._characters.add(fragment):
            for char in part:
                if unicodedata.category(char) == "Cf":  # silent, as `speech.text` has it
                    continue
                found: list[str] = []
                self._take(char, found)
                yield from found

    def finish(self) -> list[str]:
        """Return the rest of the text, in pieces; nothing more may be added. Raises InvalidInput, as `add` does."""
        self._characters.finish()
        found: list[str] = []
        if self._granularity is None:
            text = markdown.plain(self._text).strip() or self._text
            return pieces(unicodedata.normalize("NFC", str(text)), self._language, self._limit, join=False)
        self._append(self._unpaired(""), found)
        self._run = ""
        self._cut_at_settled(found, ended=True)
        rest = self._text[self._cut :].strip()
        self._cut = len(self._text)
        if rest and (any(speakable(rest)) or not self._given):
            cut = [rest] if len(rest) <= self._limit else pieces(rest, self._language, self._limit, join=False)
            for piece in cut:
                self._give(piece, found)
        return found

    def _take(self, char: str, found: list[str]) -> None:
        self.length += 1
        if self.length > self._most:
            raise InvalidInput(
                f"The text of this utterance is longer than {self._most} characters. End an utterance with "
                "`input.done` before that, and go on with the next one.",
                param="text",
                code="text_too_long",
            )
        if self._granularity is None:
            self._text += char
            return
        if char in _RUNS and (not self._run or self._run[-1] == char):
            self._run += char
            return
        if self._run:
            self._append(self._unpaired(char), found)
            self._run = ""
            if char in _RUNS:
                self._run = char
                return
        self._append(char, found)

    def _unpaired(self, following: str) -> str:
        """Return what is left of a run of Markdown's signs: all of it between words (`2**3`), nothing at their edge."""
        if self._run == "*":
            return self._run
        inside = self._text[-1:].isalnum() and following.isalnum()
        return self._run if inside else ""

    def _begin(self, text: str) -> None:
        """Set what is known of `_text` to what is known of `text`, its beginning."""
        self._text, self._cut = text, 0
        self._unfit_to = 0  # a position; at no border up to it the piece from `_cut` on can end
        self._marks = InlineMarks()
        self._marks.read(text)
        self._borders = GrowingBorders(self._language, self._cased, self._open_quotes)
        self._openers = Run(OPENERS)
        self._settled_to = -1  # a position; borders up to it are settled

    def _append(self, text: str, found: list[str]) -> None:
        for char in text:
            self._text += char
            if char in _INLINE_SIGNS:
                self._marks.read(self._text, len(self._text) - 1)
            if not self._cased and char.isupper():
                self._cased = True
                self._borders = GrowingBorders(self._language, True, self._open_quotes)
            if char in _SIGNS:
                self._undecided = True
            elif self._undecided:
                self._cut_at_settled(found, ended=False)
            if len(self._text) - self._cut > self._limit:
                self._cut_for_length(found)

    def _cut_at_settled(self, found: list[str], *, ended: bool) -> None:
        """Cut at every border that is decided; all of them are if the text has `ended`."""
        assert self._granularity is not None
        text = self._text
        open_from = len(text) if ended else self._open_from()
        # A comma with a space behind it ends a clause, whatever the next word is: its first letter is made up.
        known = "x" if not ended and text[-1:] == " " and text.rstrip()[-1:] in (",", ":") else ""
        places = self._borders.find(text, known, self._cut)
        self._undecided, in_order = False, sorted(places)
        divided = False
        for at in in_order[bisect_right(in_order, max(self._cut, self._unfit_to)) :]:
            if places[at] > self._granularity:
                continue
            if not ended and (at > open_from or not (self._settled(at) or at == len(text))):
                self._undecided = True
                break
            if self._marks.divided(at, self._limit):
                divided = True  # not for good: what is around it may grow too long to be kept together
                continue
            if unicodedata.combining(text[at : at + 1] or " ") or not self._may_end(at):
                if not divided and at < len(text):
                    self._unfit_to = at
                continue
            self._give(text[self._cut : at].strip(), found)
            self._cut_here(at)
        if not ended and not self._undecided:
            self._undecided = open_from < len(text) or not text[-1].isalnum()
        self._forget(places)

    def _cut_here(self, at: int) -> None:
        self._cut = self._unfit_to = at

    def _settled(self, at: int) -> bool:
        """Tell if what follows a border can no longer change it: a word has begun, or a sign that opens nothing."""
        if self._open_tag(at) is not None:
            return False
        if at > self._settled_to and self._openers.end(self._text, at) < len(self._text):
            self._settled_to = at
        return at <= self._settled_to

    def _open_tag(self, start: int) -> int | None:
        """Return the position of a tag from `start` on that may still be closed."""
        at = self._marks.open_tag
        return at if at is not None and at >= start and _OPEN_TAG.match(self._text, at) else None

    def _open_from(self) -> int:
        """Return the position of the first tag that may still be closed; a cut behind it might divide a pair."""
        text = self._text
        first = [len(text)]
        bracket = self._marks.open_bracket
        if bracket is not None and bracket >= self._cut and _OPEN_BRACKET.match(text, bracket):
            first.append(bracket)
        if (tag := self._open_tag(self._cut)) is not None:
            first.append(tag)
        if (pair := self._marks.unended(max(self._cut, len(text) - self._limit))) is not None:
            first.append(pair)
        return min(first)

    def _may_end(self, at: int) -> bool:
        """Tell if the piece up to a border can be said by itself."""
        piece = self._text[self._cut : at].rstrip()
        return any(speakable(piece)) and not (self._given and is_tiny(piece, self._language))

    def _cut_for_length(self, found: list[str]) -> None:
        """Give out the beginning of a piece that has reached the limit."""
        rest = self._text[self._cut :]
        if len(rest.strip()) <= self._limit:
            return
        if not any(speakable(rest)) and (at := self._middle()) is not None:
            self._cut_here(at)  # a row of signs is left out; the best place in it is not worth a search
            return
        piece = pieces(rest, self._language, self._limit, join=False)[0]
        self._cut_here(self._cut + rest.index(piece) + len(piece))
        if any(speakable(piece)):
            self._give(piece, found)

    def _middle(self) -> int | None:
        """Return a position that divides no tag, near the middle of a piece."""
        half = self._cut + self._limit // 2
        fit = (at for at in range(half, self._cut, -1) if not self._marks.divided(at, self._limit))
        return next(fit, None)

    def _forget(self, places: dict[int, Border]) -> None:
        """Drop the sentences that are given out: they decide nothing any more."""
        if places.get(self._cut) is Border.SENTENCE:
            gone = self._text[: self._cut]
            self._open_quotes = frozenset(
                quote for quote in "\"'" if (gone.count(quote) + (quote in self._open_quotes)) % 2
            )
            self._begin(self._text[self._cut :])

    def _give(self, piece: str, found: list[str]) -> None:
        plain = _EMPHASIS_LEFT.sub("", markdown.plain(piece)).strip() or piece
        found.append(unicodedata.normalize("NFC", plain))
        self._given += 1


def _half_of_a_pair() -> InvalidInput:
    return InvalidInput(
        "The text contains half of a surrogate pair, which is no character. Send it as valid UTF-8; a pair may be cut "
        "in two only between one message and the next.",
        param="text",
        code="text_not_unicode",
    )
