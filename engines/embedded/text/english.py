"""English text -> Kokoro phonemes, by hibari's grapheme-to-phoneme rules (a port of misaki's, without spaCy).

hibari carries separate American and British lexicons, so en-GB is a different reading (tomato, schedule, no r in
car), not a relabelled en-US. It normalises numbers, dates, money and units itself; here is only what it leaves out.
"""

from __future__ import annotations

import re
import unicodedata

from engines.embedded.text import arpabet
from engines.embedded.text.markup import Item, Syllable, Word

_LENGTHS = {"km": "kilometers", "m": "meters", "cm": "centimeters", "mm": "millimeters", "ft": "feet"}
_POWERS = {"²": "square ", "³": "cubic "}
#: units that hibari leaves to the ear; a bare letter counts only behind a space (the 1990s are no seconds)
_UNITS = {
    "m/s": "meters per second",
    "m": "meters",
    "g": "grams",
    "l": "liters",
    "L": "liters",
    "mL": "milliliters",
    "t": "tons",
    "W": "watts",
    "V": "volts",
    "dB": "decibels",
    "s": "seconds",
    "h": "hours",
    "µs": "microseconds",
    "μs": "microseconds",
}
_NUMBER = r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)"
_AREA = re.compile(rf"{_NUMBER}\s?(km|mm|cm|ft|m)([²³])")
_LONGEST_FIRST = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_UNIT = re.compile(rf"{_NUMBER}(?: |(?=[A-Zµμgl]|m/))({_LONGEST_FIRST})(?![\w/²³'])")
_ADDRESS = re.compile(r"(?:https?://)?(?:[\w-]+@)?(?:[\w-]+\.)+[A-Za-z]{2,}(?:/[\w./?=&#%-]*)?(?![\w.])")
_ADDRESS_SIGNS = {
    ".": " dot ",
    "/": " slash ",
    "@": " at ",
    "-": " dash ",
    "_": " underscore ",
    "?": " question mark ",
    "=": " equals ",
    "&": " and ",
    "#": " hash ",
    "%": " percent ",
}
_IDIOMS = {"24/7": "twenty four seven", "50/50": "fifty fifty"}
#: too long to be a quantity (hibari's words end at decillions): said digit by digit
_CODE = re.compile(r"\d[\d,]{15,}\d")
_CHAIN = re.compile(r"\S{49,}")
_DAY_MONTH = re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4})(?![\d/])")
_MONTHS = ("January February March April May June July August September October November December").split()
_SPELLED = {"meter": "metre", "liter": "litre"}
_INITIALISMS = {"e.g.": "for example", "i.e.": "that is", "etc.": "et cetera"}
_LINK = str.maketrans({"[": " ", "]": " "})


class English:
    """American and British readings; each lexicon is loaded when it is first needed, or by `warm`."""

    def __init__(self) -> None:
        self._readers: dict[bool, object] = {}

    def warm(self) -> None:
        for british in (False, True):
            self._reader(british)("Warm quixotically zorbified words.")

    def phonemes(self, items: list[Item], british: bool = False) -> str:
        """Kokoro phonemes of text and given pronunciations in order; punctuation stays."""
        from hibari.g2p import normalize

        text = "".join(
            self._given(item, british)
            if isinstance(item, Word)
            else _broken_up(normalize(_prepared(item, british))).join(_outer_spaces(item))
            for item in items
            if not isinstance(item, Syllable)  # those go to the Mandarin front end: see runs.py
        )
        return self._reader(british)(text, normalize_text=False)

    @staticmethod
    def _given(word: Word, british: bool) -> str:
        # hibari's notation for a word whose phonemes are known; users can't write it, brackets never get here.
        return f"[{word.spelling or 'word'}](/{arpabet.phonemes(word.phones, british)}/)"

    def _reader(self, british: bool):
        if british not in self._readers:
            from hibari.g2p import G2P

            self._readers[british] = G2P(british=british)
        return self._readers[british]


def _broken_up(text: str) -> str:
    """Chains of over 48 characters without a space in pieces: hibari's time grows with the cube of their parts."""
    text = _CHAIN.sub(lambda match: re.sub(r"(?<=[^\W_])[^\w\s]+(?=\w)|_+", " ", match[0]), text)
    return _CHAIN.sub(lambda match: re.sub(r"(\S{24})(?=\S)", r"\1 ", match[0]), text)


def _outer_spaces(text: str) -> tuple[str, str]:
    return " " if text[:1].isspace() else "", " " if text[-1:].isspace() else ""


def _prepared(text: str, british: bool) -> str:
    text = "".join(map(_plain_letter, text.translate(_LINK)))
    text = re.sub(r"(?<!\w)'(?=\d\ds)", "", text)  # '90s: no quotation begins here
    text = _ADDRESS.sub(_address, text)
    for written, spoken in _IDIOMS.items():
        text = re.sub(rf"(?<![\w/]){written}(?![\w/])", spoken, text)
    for written, spoken in _INITIALISMS.items():
        text = re.sub(rf"(?<!\w){re.escape(written)}", spoken, text, flags=re.IGNORECASE)
    text = _CODE.sub(lambda m: " ".join(m[0].replace(",", "")), text)
    text = re.sub(r"(?<![\w.])-(?=\d)", "minus ", text)
    text = _AREA.sub(lambda m: f"{m[1]} {_number_of(_POWERS[m[3]] + _LENGTHS[m[2]], m[1])}", text)
    text = _UNIT.sub(lambda m: f"{m[1]} {_number_of(_UNITS[m[2]], m[1])}", text)
    if british:
        text = _DAY_MONTH.sub(_british_date, text)
        for american, spelled in _SPELLED.items():
            text = text.replace(american, spelled)
    return text


def _address(match: re.Match) -> str:
    """A web or mail address, as one says it; what only looks like one (3.5kg, U.S.A) is left alone."""
    address = match[0]
    if (
        "@" not in address
        and "://" not in address
        and not re.search(
            r"^www\.|\.(?:com|org|net|edu|gov|io|co|uk|de|fr|eu|us|cn|jp|ai|dev|app|info)(?:/|$)", address
        )
    ):
        return address
    address = re.sub(r"^https?://", "", address).rstrip("/")
    spoken = "".join(_ADDRESS_SIGNS.get(char, char) for char in address)
    return re.sub(r"^www ", "W W W ", spoken)


def _number_of(plural: str, number: str) -> str:
    if number != "1":
        return plural
    return plural.replace("feet", "foot") if "feet" in plural else re.sub(r"s\b", "", plural, count=1)


def _british_date(match: re.Match) -> str:
    day, month = int(match[1]), int(match[2])
    return f"{day} {_MONTHS[month - 1]} {match[3]}" if 1 <= month <= 12 and 1 <= day <= 31 else match[0]


def _plain_letter(char: str) -> str:
    """Letters beyond Latin-1 without their marks, which the lexicon doesn't know: ř -> r. é and ü stay."""
    if char < "Ā" or not char.isalpha():
        return char
    return "".join(part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part))
