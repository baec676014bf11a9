"""Finds pauses in a text: `[pause:0.5s]` or `[pause:500ms]` between two words, at the beginning or at the end.

A pause is no engine's business. The text is cut there, its parts are spoken one by one, and the silence between them
is joined in exactly: from the last sound before it to the first sound after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from speech.aligned_text import AlignedText
from speech.errors import InvalidInput
from speech.inline import speakable
from speech.spoken import markdown

SHORTEST_S, LONGEST_S = 0.05, 10.0  #: of one pause
MOST_S = 60.0  #: of all pauses of a request together
MOST = 100  #: pauses of a request
EXAMPLES = "[pause:0.5s] or [pause:500ms]"

#: Whatever is meant as a pause, so that none is read aloud: `[pause]`, `[pause 1s]` and one without its end, too.
_TAG = re.compile(r"[\[［]\s*pause\s*(?=[\]］:：=\d])([^\[\]［］]*)([\]］]?)", re.IGNORECASE)
_LENGTH = re.compile(r"[:：]\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*(ms|s)\s*", re.IGNORECASE)
#: In place of a pause while Markdown's signs are taken out; `speech.text` allows no such character in a text.
MARK = "\x01"
_IN_A_PAIR = re.compile(rf"<\s*([A-Za-z]+)\s*>[^<>]*{MARK}[^<>]*</\s*\1\s*>")
#: Signs that belong to the words before the pause, where they were written after it.
_CLOSING = re.compile(r"^[\s。．｡！？；…‼⁇⁈⁉?!.;，、：,:)\]）】》〉」』”»]+")


@dataclass(frozen=True)
class SpokenPart:
    """A text that is spoken without a pause, and the seconds of silence before it."""

    text: AlignedText
    pause_s: float


@dataclass(frozen=True)
class PacedText:
    """A text with pauses.

    Attributes:
        written: the text with its pauses, the source of all parts.
        parts: what is spoken.
        last_pause_s: seconds after the last part.
    """

    written: str
    parts: tuple[SpokenPart, ...]
    last_pause_s: float = 0.0

    @property
    def text(self) -> str:
        """The text without its pauses."""
        return " ".join(part.text for part in self.parts)

    @property
    def seconds(self) -> float:
        """The seconds of all pauses together."""
        return sum(part.pause_s for part in self.parts) + self.last_pause_s


@dataclass(frozen=True)
class Pauses:
    """The pauses between a request's pieces, where they are not the pieces' own."""

    before_s: float = 0.0  #: before the first piece
    after_s: Mapping[int, float] = field(default_factory=dict)  #: number of a piece, from 0: seconds after it
    last_is_heard: bool = False  #: the last piece's pause ends the audio

    def __bool__(self) -> bool:
        return bool(self.before_s or self.after_s)


def has_any(text: str) -> bool:
    """Tell if a text has anything that is meant as a pause, also one that `parse` refuses."""
    return _TAG.search(text) is not None


def parse(text: str) -> PacedText | None:
    """Cut a text at its pauses.

    Args:
        text: as `speech.text.check_text` left it.

    Returns:
        The parts, in order; None if the text has no pauses.

    Raises:
        InvalidInput: (param `text`) `pause_malformed`, `pause_out_of_range`, `pauses_too_long`, `pauses_too_many`,
            `pause_in_tag`, `pause_in_markup`, or `pause_alone` if nothing remains to be said.
    """
    tags = list(_TAG.finditer(text))
    lengths = [_seconds(tag) for tag in tags]
    if not lengths:
        return None
    if len(lengths) > MOST:
        raise _refuse(
            f"The text has {len(lengths)} pauses; the limit is {MOST}. Split it over several requests.",
            "pauses_too_many",
        )
    if sum(lengths) > MOST_S:
        raise _refuse(
            f"The pauses of the text are {sum(lengths):g} s long together; the limit is {MOST_S:g} s. Shorten them, or "
            "put the silence between the files of several requests.",
            "pauses_too_long",
        )
    found = marked(text)
    if _IN_A_PAIR.search(found):
        raise _refuse(
            "A pause can't stand between a tag and its end, as in <strong>…</strong>. Close the tag before the pause, "
            "and open it again after it.",
            "pause_in_tag",
        )
    plain = markdown.plain(found)
    _refuse_lost(tags, plain)
    return _passages(text, _split(plain), lengths)


def marked(text: str) -> AlignedText:
    """Return the text with a `MARK` in place of each pause."""
    return AlignedText.of(text).sub(_TAG, MARK)


def _refuse_lost(tags: list[re.Match[str]], plain: AlignedText) -> None:
    """Refuse a pause that Markdown's rules take out with what is around it: its silence would be missing."""
    if plain.count(MARK) == len(tags):
        return
    left = {plain.source(at, at + 1) for at, char in enumerate(plain) if char == MARK}
    lost = next(tag for tag in tags if tag.span() not in left)
    raise _refuse(
        f"The pause at character {lost.start() + 1} of the text stands in a part of Markdown that is not spoken, such "
        "as a link's address or the line that opens a block of code. Move it before or behind that part.",
        "pause_in_markup",
    )


def _split(text: AlignedText) -> list[AlignedText]:
    borders = [at for at, char in enumerate(text) if char == MARK]
    return [text[start:end] for start, end in zip([0, *(at + 1 for at in borders)], [*borders, len(text)], strict=True)]


def _passages(written: str, texts: list[AlignedText], lengths: list[float]) -> PacedText:
    """Pair the texts around the pauses with them; signs and tags without a word go to a neighbour."""
    spoken: list[SpokenPart] = []
    waiting, owed = AlignedText.of(""), 0.0
    for text, pause_s in zip(texts, [0.0, *lengths], strict=True):
        owed += pause_s
        if spoken and not waiting and (closing := _CLOSING.match(text)):
            spoken[-1] = SpokenPart(spoken[-1].text + text[: closing.end()].strip(), spoken[-1].pause_s)
            text = text[closing.end() :]
        text = AlignedText.joined((waiting, text.strip()), " ").strip()
        if any(speakable(text)):
            spoken.append(SpokenPart(text, owed))
            waiting, owed = AlignedText.of(""), 0.0
        else:
            waiting = text
    if not spoken:
        raise _refuse("The text has pauses, and nothing to say between them. Write at least one word.", "pause_alone")
    if waiting:
        spoken[-1] = SpokenPart(AlignedText.joined((spoken[-1].text, waiting), " "), spoken[-1].pause_s)
    return PacedText(written, tuple(spoken), owed)


def _seconds(tag: re.Match[str]) -> float:
    length = _LENGTH.fullmatch(tag[1].strip())
    if length is None or not tag[2]:
        raise _refuse(
            f"The pause at character {tag.start() + 1} of the text can't be read. Write {EXAMPLES}; to have the word "
            "spoken, leave out the bracket.",
            "pause_malformed",
        )
    seconds = float(length[1]) / (1000 if length[2].lower() == "ms" else 1)
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise _refuse(
            f"The pause at character {tag.start() + 1} of the text is {seconds:g} s long; a pause has {SHORTEST_S:g} "
            f"to {LONGEST_S:g} s. For a longer one write several in a row.",
            "pause_out_of_range",
        )
    return seconds


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="text", code=code)
