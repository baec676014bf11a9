"""Finds what somebody may have meant by a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: Characters of a name that may be a misspelt one. difflib takes 25 s for the 27 MB that a JSON body may hold.
_LONGEST = 64


def nearest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the names most like this one, the nearest first; none for a name that is too long to be a slip.

    Args:
        name: The name that was given.
        known: The names that exist.
        count: How many to return at most.
        cutoff: How like they must be, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    return get_close_matches(name, list(known), n=count, cutoff=cutoff) if len(name) <= _LONGEST else []
