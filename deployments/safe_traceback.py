"""An exception as a log may show it: its type and where it was raised, and the same of what caused it. No messages.

Exceptions quote what they choke on, and what goes through here is what people say. So a message, which
`log.exception` and `traceback` would write, is never taken; files, lines and names of types are our own words and
those of libraries.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

_MOST_CAUSES, _MOST_FRAMES = 8, 30


def safe_traceback(error: BaseException) -> str:
    """`KeyError at a.py:3 in f, b.py:9 in g; caused by ValueError at c.py:5 in h`, the innermost place last."""
    return "; caused by ".join(f"{_type(link)} at {_places(link)}" for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and its causes, as Python would print them; Ray's wrappers hold theirs in `cause`."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < _MOST_CAUSES:
        seen.add(id(link))
        yield link
        cause = getattr(link, "cause", None)
        link = (
            link.__cause__
            or (cause if isinstance(cause, BaseException) else None)
            or (None if link.__suppress_context__ else link.__context__)
        )


def _type(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _places(error: BaseException) -> str:
    frames = traceback.StackSummary.extract(
        traceback.walk_tb(error.__traceback__), limit=-_MOST_FRAMES, lookup_lines=False
    )
    return ", ".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames) or "another process"
