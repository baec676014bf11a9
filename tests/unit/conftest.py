"""Shared by the unit tests: one front end of the embedded engine for all of them in a process."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from engines.embedded import text

_loaded = cache(text.load)


def _load(languages: Iterable[str] = text.LANGUAGES) -> text.TextFrontEnd:
    return _loaded(tuple(languages))


# Its dictionaries take six seconds to load, in a dozen files. The graph has one for each model, because two threads
# must not use it at once; a test is one thread. Set here, before a test file imports the function.
text.load = _load
