"""Where the speech of a part is cut while it is still being said.

The first chunk is 25 tokens (a second) long, and each next one twice as long as the one before, up to 100. It is filled
up so that it ends where a chunk of the attention ends, counted from the clip's beginning: aligned, a chunk's mel
stays what it is when more tokens come. All of this is one part's own; the official code keeps the length of the next
chunk for all requests, so that after the first stream every other waits four times as long for its first sound.
"""

from __future__ import annotations

_GROWTH, _LONGEST = 2, 4  #: of a chunk: from one to the next, and at most, in first chunks


class ChunkPlan:
    """The chunks of one part. All counts are speech tokens, from the part's beginning.

    Args:
        prompt: of the reference clip.
        look_ahead: that a chunk must see beyond its end; the flow's.
        first: the first chunk's length; what the flow's attention was trained on.
    """

    def __init__(self, prompt: int, look_ahead: int, first: int = 25) -> None:
        self._look_ahead = look_ahead
        self._most = first * _LONGEST
        self._hop = first
        self._end = first + -prompt % first  # of the next chunk

    @property
    def wanted(self) -> int:
        """What the next chunk needs, with those that are only looked ahead at."""
        return self._end + self._look_ahead

    def advance(self) -> None:
        """To the chunk after it."""
        self._hop = min(self._most, self._hop * _GROWTH)
        self._end += self._hop

    def reached(self, said: int) -> int | None:
        """`wanted` of the furthest chunk that so many tokens complete, and on to the next; None while there is none.

        Who comes late to several chunks so takes them as one: each ends where its like would have ended.
        """
        furthest = None
        while said >= self.wanted:
            furthest = self.wanted
            self.advance()
        return furthest
