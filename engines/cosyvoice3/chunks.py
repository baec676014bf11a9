"""Plans the cuts of a part's speech into chunks while it is still being decoded.

The first chunk is 25 tokens (a second) long, or shorter if that is asked for, and each next one twice as long as the
one before, up to 100. The first is extended so that it ends at the end of an attention chunk, counted from the clip's
beginning. Aligned like this, a chunk's mel stays the same when more tokens come, so the cuts do not change the sound.
Each part has its own plan. The official code keeps the length of the next chunk for all requests, so that after the
first stream every other waits four times as long for its first sound.
"""

from __future__ import annotations

_GROWTH, _LONGEST = 2, 4  #: growth of a chunk's length, and its largest length in first chunks


class ChunkPlan:
    """The chunks of one part. All counts are speech tokens, from the part's beginning.

    Args:
        prompt: tokens of the reference clip.
        look_ahead: tokens that the flow must see beyond the end of a chunk.
        first: the first chunk's length, on which the flow's attention was trained.
        least: end the first chunk at the first border after so many tokens; None: after `first`.
        grows: False: all chunks have the first one's length, because a text that is still coming may give no more.
    """

    def __init__(
        self, prompt: int, look_ahead: int, first: int = 25, least: int | None = None, grows: bool = True
    ) -> None:
        self._look_ahead = look_ahead
        self._most = first * _LONGEST if grows else first
        self._hop = first
        least = first if least is None else least
        self._end = -(-(prompt + least) // first) * first - prompt  # end of the next chunk

    @property
    def wanted(self) -> int:
        """The number of tokens that the next chunk needs, including its look-ahead."""
        return self._end + self._look_ahead

    def advance(self) -> None:
        """Go on to the next chunk."""
        self._hop = min(self._most, self._hop * _GROWTH)
        self._end += self._hop

    def skip(self, tokens: int) -> None:
        """Leave out the chunks that end within so many tokens: they were made before."""
        while self._end <= tokens:
            self.advance()

    def reached(self, said: int) -> int | None:
        """Return `wanted` of the last chunk that `said` tokens complete, and go on to the next; None if there is none.

        If several chunks are complete, they are taken as one. It ends where the last of them would have ended.
        """
        furthest = None
        while said >= self.wanted:
            furthest = self.wanted
            self.advance()
        return furthest
