"""Writes times: one time reads the same in the tiles, the progress, the waterfall and the list of takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def duration(ms: float, words: Mapping[str, str]) -> str:
    """Write a duration: milliseconds below a second, else seconds."""
    return f"{ms:,.0f} {words['ms']}" if round(ms) < 1000 else f"{ms / 1000:,.2f} {words['s']}"


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of these spans (start, end) lasted; what overlaps counts once."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
