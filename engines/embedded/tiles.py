"""Covers a length with tiles of few sizes, so that oneDNN compiles few kernels."""

from __future__ import annotations

from collections.abc import Sequence


def tiles(length: int, sizes: Sequence[int], full_enough: float = 0.0) -> list[int]:
    """List the sizes of the tiles that cover a length, large ones first; the last may reach beyond the end.

    Args:
        length: to be covered.
        sizes: that there are, large ones first.
        full_enough: share of a tile that is worth computing all of it, in place of two smaller ones.
    """
    found = [sizes[0]] * (length // sizes[0])
    rest = length % sizes[0]
    while rest > 0:
        enclosing = min(size for size in sizes if size >= rest)
        whole = rest > full_enough * enclosing or enclosing == sizes[-1]
        found.append(enclosing if whole else max(size for size in sizes if size < rest))
        rest -= found[-1]
    return found
