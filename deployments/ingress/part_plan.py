"""Decides in which parts the sound of a piece is made that somebody waits for.

The first part is short, so that it is heard soon. Each next one is as long as can be made while the one before it is
played, with a reserve. Where making takes nearly half as long as playing, the piece is made whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: Says for the seconds of a mel where its parts end, in seconds of the sound, but for the last one.
PartEnds = Callable[[float], Sequence[float]]

FIRST_S = 0.3  #: of sound, at least; less is heard as a broken start where the next part is late
LEAST_S = 0.45  #: of a later part; so much that what is left to play grows with each one, up to MOST_FACTOR
OVERHEAD_S = 0.5  #: a part costs as much as so much more of it: its neighbours' edges, the excitation, the call
PART_FACTOR = 0.33  #: seconds that a second of a part and its overhead take, until recent parts have shown it
MOST_GROWTH = 3.0  #: from part to part
MOST_FACTOR = 0.45  #: beyond it pieces are made whole: parts cost a third more, and a busy graph has no time for that
RESERVE = 1.6  #: by how much longer than expected a part may take: a late one would be a gap within a word
SOON_S = 0.5  #: a piece that is due later than this is made whole: what is expected may be off by as much
SILENCE_S = 0.5  #: that a mel has at its edges, more or less; no part is made of it


def ends_of_parts(seconds: float, factor: float = PART_FACTOR) -> list[float]:
    """Return where the parts of a piece end, in seconds of its sound, without the last one's end; []: it is one part.

    Args:
        seconds: of the piece's mel.
        factor: seconds that a second of a part and its overhead take.
    """
    if factor > MOST_FACTOR:
        return []
    ends: list[float] = []
    # The shortest first part with which the next one is worth its overhead.
    size = max(FIRST_S, RESERVE * factor * (LEAST_S + OVERHEAD_S))
    left = size  # to play when the latest part is made
    while (end := (ends[-1] if ends else 0.0) + size) + size / 2 < seconds - SILENCE_S:
        ends.append(end)
        size = min(left / (RESERVE * factor) - OVERHEAD_S, MOST_GROWTH * size)
        left += size - factor * (size + OVERHEAD_S)
    return ends
