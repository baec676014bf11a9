"""An object store of fsspec as storage. There, a file is either whole or absent."""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fsspec import AbstractFileSystem

from speech.errors import VoiceStoreUnavailable

log = logging.getLogger(__name__)

#: fsspec's memory checks and then writes. It belongs to this process, so a lock makes one step of the two.
_IN_MEMORY = threading.Lock()


class ObjectStorage:
    """A `Storage` (storage.py) below `root` in `files`."""

    def __init__(self, files: AbstractFileSystem, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._one_at_a_time: AbstractContextManager[object] = (
            _IN_MEMORY if files.protocol == "memory" else nullcontext()
        )
        self._exclusive = False

    def read(self, path: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self._at(path)))
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        self._files.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        if not self._exclusive:
            self._check_exclusive()
        return self._create(path, data)

    def _create(self, path: str, data: bytes) -> bool:
        try:
            with self._one_at_a_time:
                self._files.pipe_file(self._at(path), data, mode="create")
            return True
        except FileExistsError:
            # If the answer was lost, the driver has asked again and found its own file.
            return self.read(path) == data
        except Exception:
            # S3 may answer 409 to a second request; any other failure may hide a success.
            found = self.read(path)
            if found is None:
                raise
            return found == data

    def _check_exclusive(self) -> None:
        path = f"try/{secrets.token_hex(16)}"
        try:
            if not self._create(path, b"first") or self._create(path, b"second"):
                log.error(
                    "the voice store creates a file that exists already, so replicas would lose each other's voices: "
                    "no voice is stored or deleted there"
                )
                raise VoiceStoreUnavailable(
                    "The voice store can't create a file exclusively, so nothing is changed there. The operator of "
                    "this service must set `voices.url` to another one.",
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
        """Do nothing: no file is half written. The bucket expires parts of a large upload that broke off."""

    def _list(self, path: str) -> list[dict[str, Any]]:
        folder = self._at(path)
        self._files.invalidate_cache(folder)
        try:
            return list(self._files.ls(folder, detail=True))
        except FileNotFoundError:
            return []

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]
