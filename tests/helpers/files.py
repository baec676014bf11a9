"""Reads all files below a folder that others are still writing to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield each regular file with what is in it, in order; those that go away meanwhile are left out.

    Ray writes some files under another name first.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                yield path, path.read_bytes()
            except FileNotFoundError:
                continue
