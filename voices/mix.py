"""Reads a weighted mix of stored voices, in Kokoro-FastAPI's notation: `anna(2)+bob(1)` is two parts anna, one bob."""

from __future__ import annotations

import re
from dataclasses import dataclass

from speech.errors import InvalidInput

MOST_MEMBERS = 5
HEAVIEST = 1000.0
EXAMPLE = "anna(2)+bob(1)"

#: No name may hold one of them (names.py), so a mix can't be taken for a name.
_SIGNS = frozenset("+()")
#: Characters of the longest mix. What is longer, a body of megabytes for one, is the name of no voice either.
_LONGEST = MOST_MEMBERS * 1024
_MEMBER = re.compile(r"\s*(?P<name>[^+()\s]+)\s*(?:\((?P<weight>[^+()]*)\)\s*)?")
_WEIGHT = re.compile(r"\s*[0-9]{1,6}(?:\.[0-9]{1,6})?\s*")


@dataclass(frozen=True)
class Member:
    """A stored voice by its name or id, and its share relative to the other members'."""

    name: str
    weight: float = 1.0


def parse(voice: str) -> tuple[Member, ...] | None:
    """Read the field `voice`; None if it is a plain name or id.

    Raises:
        InvalidInput: (param `voice`) `mix_malformed`, `mix_weight`, `mix_too_many` or `mix_twice`.
    """
    count = voice.count("+") + 1
    if count > MOST_MEMBERS:
        raise _refuse(
            f"The mix has {count} voices; at most {MOST_MEMBERS} can be mixed. Leave out those of little weight.",
            "mix_too_many",
        )
    if len(voice) > _LONGEST or _SIGNS.isdisjoint(voice):
        return None
    members = tuple(map(_member, voice.split("+")))
    if len({member.name for member in members}) < len(members):
        raise twice()
    return members


def _member(text: str) -> Member:
    found = _MEMBER.fullmatch(text)
    if found is None:
        raise _refuse(
            f"The mix of voices can't be read. Write names or ids with weights, joined by '+': {EXAMPLE}. In a "
            "URL-encoded form a '+' is sent as %2B.",
            "mix_malformed",
        )
    if found["weight"] is None:
        return Member(found["name"])
    weight = float(found["weight"]) if _WEIGHT.fullmatch(found["weight"]) else 0.0
    if not 0 < weight <= HEAVIEST:
        raise _refuse(
            f"A weight of the mix is no number above 0 and up to {HEAVIEST:g}. Write {EXAMPLE} or anna(0.7)+bob(0.3); "
            "a voice without a weight has 1.",
            "mix_weight",
        )
    return Member(found["name"], weight)


def twice() -> InvalidInput:
    """Return the error of a mix that names a voice twice, by its name, its id or an alias."""
    return _refuse("The mix names a voice twice. Name it once, with the sum of the weights.", "mix_twice")


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="voice", code=code)
