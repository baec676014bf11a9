"""The storage of voices: files by path, each written whole or not at all, some of them by exclusive creation.

The rest of this room builds on one promise, `create`: of all processes that create the same path, exactly one
succeeds, and no process ever reads half of the file. How each kind of storage keeps it:

- **A local folder** (`folder_storage.py`): `link(2)` of a finished file, which is atomic and exclusive on every local
  file system that has hard links, and over NFS. fsspec's own local files are neither: `pipe_file(mode="create")` looks
  and then writes, and a half-written file can be read. Over NFS another machine may see a change late, by its
  directory cache (`acdirmax`, or `lookupcache=none`); none is lost.
- **s3, gs, abfs** (`object_storage.py`): `pipe_file(mode="create")` is one conditional request there
  (`If-None-Match: *`, `ifGenerationMatch=0`, `overwrite=False`), with s3fs 2024.12, gcsfs and adlfs of that time or
  later. These stores list a written file at once. A bucket that keeps old versions keeps deleted voices too: switch
  versioning off.
- **memory**: one process, by a lock.
- **A store without exclusive creation**: some servers with S3's API ignore the condition. Each process tries it out
  before its first change. If the second of two creations succeeds, no voice is stored there: two ingress replicas would
  lose each other's voices. No other protocol of fsspec is offered, as hardly any other has exclusive creation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fsspec.core import url_to_fs

from speech.errors import RETRY_AFTER_RESTART_S, SpeechError, VoiceStoreUnavailable
from voices.folder_storage import FolderStorage
from voices.object_storage import ObjectStorage
from voices.settings import VoiceSettings, path_of, protocol_of

log = logging.getLogger(__name__)


class Storage(Protocol):
    """Files below one root. Paths are relative, with `/`. If the storage fails, its driver's error is raised."""

    def read(self, path: str) -> bytes | None:
        """Return the whole file; None if there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Replace the file, whole or not at all. Folders are made as needed."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Create the file; True for exactly one of all callers. `data` must be unlike all others'."""
        ...

    def remove(self, path: str) -> None:
        """Remove the file, if there is one."""
        ...

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all its files, if there is one."""
        ...

    def sizes(self, path: str) -> dict[str, int]:
        """Return the sizes of the files in a folder, by name; empty if there is no such folder."""
        ...

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders in a folder."""
        ...

    def tidy(self, before: float) -> None:
        """Remove half-written files that are older than this time (seconds since the epoch)."""
        ...


def open_storage(settings: VoiceSettings) -> Storage:
    """Open the storage that `settings.url` names; nothing is read or written yet.

    Raises:
        ValueError: no url is set, or the driver of its protocol is missing.
    """
    if settings.url is None:
        raise ValueError("voices.url is not set: name a folder by its absolute path, or a place in an object store")
    url, protocol = settings.url, protocol_of(settings.url)
    if protocol == "file":
        return FolderStorage(Path(path_of(url)))
    try:
        # A cached listing would hide the changes of other processes.
        files, root = url_to_fs(url, **{**settings.options, "use_listings_cache": False})
    except ImportError as error:
        raise ValueError(f"voices at {protocol}:// need fsspec's driver for it: {error}") from error
    return ObjectStorage(files, root)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn errors of the storage into VoiceStoreUnavailable. The log names their type, without a path or a message."""
    try:
        yield
    except SpeechError:
        raise
    except Exception as error:
        log.error(
            "the voice store failed while %s: %s.%s, errno %s",
            doing,
            type(error).__module__,
            type(error).__qualname__,
            getattr(error, "errno", None),
        )
        raise VoiceStoreUnavailable(
            "The voice store can't be reached, or refuses; try again shortly. The service's log says what failed.",
            code="voice_store_failed",
            retry_after_s=RETRY_AFTER_RESTART_S,
        ) from error
