"""Finds the route of a path. A path itself is the caller's text and never leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable

from config.routes import path_pattern


class Routes:
    """A closed list of routes.

    Args:
        routes: Paths. `{name}` stands for a part that may be anything but `/`.
    """

    def __init__(self, routes: Iterable[str]) -> None:
        self._plain = frozenset(routes)
        self._patterns = [(re.compile(path_pattern(route)), route) for route in sorted(self._plain) if "{" in route]
        self._ends = [
            (re.compile(f"(?:/.*)?{path_pattern(route)}", re.DOTALL), route)
            for route in sorted(self._plain, key=len, reverse=True)
            if len(route) > 1
        ]

    def find(self, path: str) -> str | None:
        """Return the route of a path, or None."""
        if path in self._plain and "{" not in path:
            return path
        return next((route for pattern, route in self._patterns if pattern.fullmatch(path)), None)

    def find_below(self, path: str) -> str | None:
        """Return the route of a path below any prefix, or None."""
        return next((route for pattern, route in self._ends if pattern.fullmatch(path)), None)
