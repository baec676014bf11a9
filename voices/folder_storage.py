"""A local folder as storage: plain files, finished under another name and then linked or renamed into place."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Voices are personal: only the user that the service runs as may read them.
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_HALF_WRITTEN = "tmp"
#: Attempts at what another process may undo meanwhile. One that loses all of them races with many.
_ATTEMPTS = 20


class FolderStorage:
    """A `Storage` (storage.py) in a local folder. A written file is on the disk when the call returns."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        with self._finished(data) as file:
            self._placed(path, lambda target: os.replace(file, target))
        with suppress(FileNotFoundError):  # the same, a moment later
            _sync_folder((self._root / path).parent)

    def create(self, path: str, data: bytes) -> bool:
        with self._finished(data) as file:
            try:
                self._placed(path, lambda target: os.link(file, target))
            except FileExistsError:
                # Over NFS a link can be made and its answer be lost; the second attempt then finds it.
                return self.read(path) == data
        with suppress(FileNotFoundError):
            _sync_folder((self._root / path).parent)
        return True

    def remove(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                shutil.rmtree(self._root / path)
            except OSError:  # another process has put a file there meanwhile, or has removed one
                if not (self._root / path).exists():
                    return
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def sizes(self, path: str) -> dict[str, int]:
        found = {}
        for entry in self._entries(path):
            try:
                found[entry.name] = entry.stat().st_size
            except FileNotFoundError:  # gone since
                continue
        return found

    def folders(self, path: str) -> list[str]:
        return [entry.name for entry in self._entries(path) if entry.is_dir(follow_symlinks=False)]

    def tidy(self, before: float) -> None:
        for entry in self._entries(_HALF_WRITTEN):
            try:
                if entry.stat().st_mtime < before:
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._root / path) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def _placed(self, path: str, place: Callable[[Path], None]) -> None:
        """Put a file at its place; its folder is made anew where another process removes it."""
        target = self._root / path
        for attempt in range(_ATTEMPTS):
            try:
                _make(target.parent)
                place(target)
                return
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise

    @contextmanager
    def _finished(self, data: bytes) -> Iterator[Path]:
        """Write `data` into a file of its own, and remove what is left under that name afterwards."""
        folder = self._root / _HALF_WRITTEN
        _make(folder)
        file = folder / secrets.token_hex(16)
        try:
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            yield file
        finally:
            file.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Write the folder to the disk: only then a new name in it is there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
