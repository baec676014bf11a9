"""Converts Mandarin text to Kokoro phonemes: words by jieba, readings by pypinyin, tone sandhi by our own rules.

Traditional characters are segmented and read by their simplified forms' words.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from engines.embedded.packages import cache_directory
from engines.embedded.text import mandarin_contexts, pinyin, tones
from engines.embedded.text.mandarin_readings import STRANGE, readings, simplified
from engines.embedded.text.markup import EXAMPLES, Item, Syllable
from engines.embedded.text.packed import Counts
from speech.aligned_text import AlignedText
from speech.errors import InvalidInput
from speech.spoken.mandarin import written_out

_HAN = re.compile("[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_PUNCTUATION = frozenset(".,!?;:…—“”()")
#: Stands for a left-out character whose reading is given; like any unknown character it splits words.
_ALONE = "\ue000"


class Mandarin:
    def __init__(self) -> None:
        self._words: Any = None

    def warm(self) -> None:
        self.phonemes(["预热一下, 现在20.5度。"])  # the number, too, has a library to load

    def phonemes(self, items: list[Item]) -> AlignedText:
        """Convert text and given pronunciations, in order, to Kokoro phonemes; words are separated by spaces."""
        text, given = _joined(items)
        meant = mandarin_contexts.readings(simplified(text), text)
        out: list[AlignedText] = []
        clause: list[tones.Word] = []
        places: list[int] = []  # of the clause's words in the text
        position = 0
        words = self._segmented(text)
        for index, word in enumerate(words):
            if _is_word(word):
                beside = [
                    words[at] if 0 <= at < len(words) and _is_word(words[at]) else "" for at in (index - 1, index + 1)
                ]
                clause.append(_read(word, position, given, meant, *beside))
                places.append(position)
            elif word in _PUNCTUATION:
                out += [*_sounds(clause, places, text), text[position : position + len(word)]]
                clause, places = [], []
            position += len(word)
        return AlignedText.joined(out + _sounds(clause, places, text), " ")

    def _segmented(self, text: str) -> list[str]:
        if self._words is None:
            self._words = _segmenter()
        words, position = [], 0
        # The model for unknown words is off: it joins 他教 or 地笑, and an unknown name is read the same in pieces.
        for word in self._words.cut(simplified(text), HMM=False):
            words += _split_marks(text[position : position + len(word)])
            position += len(word)
        return words


def _is_word(word: str) -> bool:
    return bool(_HAN.match(word)) or word == _ALONE


def _joined(items: list[Item]) -> tuple[AlignedText, dict[int, str]]:
    """Join all items into one string; returns it and the given readings by position in it."""
    parts: list[AlignedText] = []
    given: dict[int, str] = {}
    for item in items:
        if isinstance(item, Syllable):
            given[sum(map(len, parts))] = item.reading
            parts.append(AlignedText.spread(item.character or _ALONE, item.source))
        elif isinstance(item, str):
            parts.append(written_out(item.replace(_ALONE, " ")))
    return AlignedText.joined(parts), given


def _segmenter():
    import jieba

    jieba.setLogLevel(logging.WARNING)
    words = jieba.Tokenizer()
    directory = cache_directory() / "jieba"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        words.tmp_dir = str(directory)  # not the shared /tmp, where other users could put a file in its place
    except OSError:
        pass
    words.initialize()
    words.FREQ = Counts(words.FREQ)
    return words


def _split_marks(word: str) -> list[str]:
    """Split off every mark and left-out character as a word of its own; jieba may glue them to words (`...`, `“你`)."""
    return [part for part in re.split(rf"([{re.escape(''.join(_PUNCTUATION))}{_ALONE}])", word) if part]


def _read(
    word: str, position: int, given: dict[int, str], meant: dict[int, str], previous: str, following: str
) -> tones.Word:
    """Read a word.

    Args:
        word: as jieba cut it.
        position: of the word in the text.
        given: readings that the user wrote, by position in the text.
        meant: readings that the context decides, by position in the text.
        previous, following: the neighbouring words.
    """
    found = readings(word, previous, following)
    return [
        tones.Syllable(
            character,
            given.get(position + index) or meant.get(position + index) or _known(reading),
            fixed=position + index in given,
        )
        for index, (character, reading) in enumerate(zip(simplified(word), found, strict=True))
    ]


def check_readings(characters: str) -> None:
    """Raise InvalidInput (`text_no_reading`) if the dictionary knows no reading of a character."""
    for character in characters:
        _known(readings(character)[0])


def _known(reading: str) -> str:
    if reading != STRANGE:
        return reading
    raise InvalidInput(
        "The text holds a Chinese character whose reading the engine does not know. Replace it, or "
        f"give its reading in brackets behind it: {EXAMPLES}.",
        param="text",
        code="text_no_reading",
    )


def _sounds(clause: list[tones.Word], places: list[int], text: AlignedText) -> list[AlignedText]:
    """Return the phonemes of each word of a clause; `places` are the words' positions in the text."""
    tones.apply_sandhi(clause)
    return [
        AlignedText.joined(
            AlignedText.spread(pinyin.phonemes(syllable.reading), text.source(at, at + 1) or (0, 0))
            for at, syllable in enumerate(word, place)
        )
        for word, place in zip(clause, places, strict=True)
    ]
