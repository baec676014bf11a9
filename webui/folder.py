"""Keeps clips and speech in a folder of this process, readable by its user alone, and gone with the process.

A process that is killed can't tidy up. So each holds a lock on its folder, which the kernel lets go of with it, and the
next one removes the folders that no process holds. A lock, and not a process's number: numbers are used again, and mean
something else in another container that shares the place.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

PREFIX = "cosygraph-webui-"


@cache
def own() -> Path:
    """Return this process's folder. The first call makes it, and removes what killed processes left behind."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # for as long as the process lives
        fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists():
            atexit.register(tidy)
            return folder
        os.close(held)  # another one swept before we held it


def tidy() -> None:
    """Remove the folder, so that no upload outlives the process. Does nothing where there is no folder yet."""
    if own.cache_info().currsize:
        shutil.rmtree(own(), ignore_errors=True)


def sweep(place: Path) -> None:
    """Remove this user's folders in `place` that no process holds. A folder that can't be opened belongs to another."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError), _held(folder):
            shutil.rmtree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock. Raises OSError where another process holds it, or it is no folder, or not ours to open."""
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(found).st_uid != os.geteuid():
            raise PermissionError(folder)
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(found)
