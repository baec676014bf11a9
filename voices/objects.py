"""Any of fsspec's object stores as a place for voices. There, a file is whole or not there by nature."""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import nullcontext

from fsspec import AbstractFileSystem

from speech.errors import VoiceStoreUnavailable

log = logging.getLogger(__name__)

#: fsspec's memory looks and then writes. Nobody but this process has it, so a lock makes one step of the two.
_IN_MEMORY = threading.Lock()


class ObjectStore:
    """A `Place` (place.py) below `root` in `files`."""

    def __init__(self, files: AbstractFileSystem, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._one_at_a_time = _IN_MEMORY if files.protocol == "memory" else nullcontext()
        self._exclusive = False

    def read(self, path: str) -> bytes | None:
        try:
            return self._files.cat_file(self._at(path))
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        self._files.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        if not self._exclusive:
            self._try_out()
        return self._create(path, data)

    def _create(self, path: str, data: bytes) -> bool:
        try:
            with self._one_at_a_time:
                self._files.pipe_file(self._at(path), data, mode="create")
            return True
        except FileExistsError:
            # Where the answer to a request was lost, the driver has asked again and found what it had written.
            return self.read(path) == data
        except Exception:
            # S3 answers 409 to some who come second; any other answer may have been lost behind a success.
            found = self.read(path)
            if found is None:
                raise
            return found == data

    def _try_out(self) -> None:
        path = f"try/{secrets.token_hex(16)}"
        try:
            if not self._create(path, b"first") or self._create(path, b"second"):
                log.error(
                    "the voice store ignores that a file must not exist yet, so replicas would lose each other's "
                    "voices: no voice is stored or deleted there"
                )
                raise VoiceStoreUnavailable(
                    "The place where voices are stored can't create a file exclusively, so "
                    "nothing is changed there. Whoever runs this service must name another "
                    "one.",
                    code="voice_store_not_exclusive",
                )
        finally:
            self.remove(path)
        self._exclusive = True

    def remove(self, path: str) -> None:
        try:
            self._files.rm_file(self._at(path))
        except FileNotFoundError:
            pass

    def remove_folder(self, path: str) -> None:
        for name in self.sizes(path):
            self.remove(f"{path}/{name}")

    def sizes(self, path: str) -> dict[str, int]:
        return {_name(entry): entry["size"] for entry in self._list(path) if entry["type"] == "file"}

    def folders(self, path: str) -> list[str]:
        return [_name(entry) for entry in self._list(path) if entry["type"] == "directory"]

    def tidy(self, before: float) -> None:
        """Nothing is ever half written; parts of a large upload that was broken off are the bucket's to expire."""

    def _list(self, path: str) -> list[dict]:
        folder = self._at(path)
        self._files.invalidate_cache(folder)
        try:
            return self._files.ls(folder, detail=True)
        except FileNotFoundError:
            return []

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


def _name(entry: dict) -> str:
    return entry["name"].rstrip("/").rpartition("/")[2]
