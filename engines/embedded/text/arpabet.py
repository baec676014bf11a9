"""Converts CMU phones (ARPAbet, as in the CMU Pronouncing Dictionary) to Kokoro's English phonemes.

Kokoro writes diphthongs as capitals (A as in day, I as in my, O as in go, W as in now, Y as in boy; British Q for
go) and puts the stress mark before the vowel, not before the syllable.
"""

from __future__ import annotations

from collections.abc import Sequence

_CONSONANTS = {
    "B": "b",
    "CH": "ʧ",
    "D": "d",
    "DH": "ð",
    "F": "f",
    "G": "ɡ",
    "HH": "h",
    "JH": "ʤ",
    "K": "k",
    "L": "l",
    "M": "m",
    "N": "n",
    "NG": "ŋ",
    "P": "p",
    "R": "ɹ",
    "S": "s",
    "SH": "ʃ",
    "T": "t",
    "TH": "θ",
    "V": "v",
    "W": "w",
    "Y": "j",
    "Z": "z",
    "ZH": "ʒ",
}
_VOWELS = {
    "AA": "ɑ",
    "AE": "æ",
    "AH": "ʌ",
    "AO": "ɔ",
    "AW": "W",
    "AY": "I",
    "EH": "ɛ",
    "ER": "ɜɹ",
    "EY": "A",
    "IH": "ɪ",
    "IY": "i",
    "OW": "O",
    "OY": "Y",
    "UH": "ʊ",
    "UW": "u",
}
_UNSTRESSED = {"AH": "ə", "ER": "əɹ"}
_BRITISH = {"AA": "ɑː", "AE": "a", "AO": "ɔː", "ER": "ɜː", "IY": "iː", "OW": "Q", "UW": "uː"}
_BRITISH_UNSTRESSED = {"AH": "ə", "ER": "ə", "IY": "i", "UW": "u"}
_STRESS = {"1": "ˈ", "2": "ˌ"}


def is_phone(symbol: str) -> bool:
    """Tell if a symbol is a CMU phone: `R`, `EH1`, `AA0`, or a vowel without a digit."""
    return symbol in _CONSONANTS or is_vowel(symbol)


def is_vowel(symbol: str) -> bool:
    return symbol in _VOWELS or (symbol[:-1] in _VOWELS and symbol[-1] in "012")


def phonemes(phones: Sequence[str], british: bool = False) -> str:
    """Convert a word to Kokoro phonemes. A word whose vowels carry no digit is stressed on its first vowel."""
    vowels = [index for index, phone in enumerate(phones) if is_vowel(phone)]
    marked = any(phones[index][-1].isdigit() for index in vowels)
    out = []
    for index, phone in enumerate(phones):
        if not is_vowel(phone):
            out.append(_CONSONANTS[phone])
            continue
        stress = phone[-1] if phone[-1].isdigit() else ("1" if not marked and index == vowels[0] else "0")
        out.append(_STRESS.get(stress, "") + _vowel(phone.rstrip("012"), stress != "0", british))
    return "".join(out)


def _vowel(name: str, stressed: bool, british: bool) -> str:
    if british:
        table = _BRITISH if stressed else _BRITISH | _BRITISH_UNSTRESSED
        return table.get(name, _VOWELS[name])
    return _VOWELS[name] if stressed else _UNSTRESSED.get(name, _VOWELS[name])
