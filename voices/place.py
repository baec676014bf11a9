"""Where voices lie: files by path, each written whole or not at all, some of them by exclusive creation.

What the rest of this room builds on is one promise, `create`: of all processes that create the same path, one alone
succeeds, and nobody ever reads half of what it wrote. What holds where:

- **A local folder** (`folder.py`): `link(2)` of a finished file, which is atomic and exclusive on every local file
  system that has hard links, and over NFS. fsspec's own local files are neither: `pipe_file(mode="create")` looks and
  then writes, and what is being written can be read. Over NFS another machine may see a change late, by its directory
  cache (`acdirmax`, or `lookupcache=none`); none is lost.
- **s3, gs, abfs** (`objects.py`): `pipe_file(mode="create")` is one conditional request there (`If-None-Match: *`,
  `ifGenerationMatch=0`, `overwrite=False`), with s3fs 2024.12, gcsfs and adlfs of that time or later. These stores list
  what was written at once. A bucket that keeps old versions keeps deleted voices too: switch versioning off.
- **memory**: one process, by a lock.
- **A store without it**: S3's imitations may ignore the condition. Each process tries it out before its first change,
  and where the second of two creations succeeds, no voice is stored there: two ingress replicas would each lose what
  the other has just stored. No other protocol of fsspec is offered, as hardly any other has exclusive creation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import fsspec

from speech.errors import RETRY_AFTER_RESTART_S, SpeechError, VoiceStoreUnavailable
from voices.folder import Folder
from voices.objects import ObjectStore
from voices.settings import VoiceSettings, path_of, protocol_of

log = logging.getLogger(__name__)


class Place(Protocol):
    """Paths are relative, with `/`. Raises OSError, or whatever the driver raises, where the store fails."""

    def read(self, path: str) -> bytes | None:
        """The whole file; None where there is none."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """The file holds all of `data`, or what it held before. Folders are made as needed."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """As `write`, where the file is not there yet: True for one caller alone. `data` must be unlike all others'."""
        ...

    def remove(self, path: str) -> None:
        """Also where there is none."""
        ...

    def remove_folder(self, path: str) -> None: ...

    def sizes(self, path: str) -> dict[str, int]:
        """Files in a folder with their bytes, by name; empty where there is no such folder."""
        ...

    def folders(self, path: str) -> list[str]:
        """Names of the folders in a folder."""
        ...

    def tidy(self, before: float) -> None:
        """Remove what processes that died have left half written before this time (seconds since the epoch)."""
        ...


def open_place(settings: VoiceSettings) -> Place:
    """The place that `settings.url` names; nothing is read or written yet. ValueError where its driver is missing."""
    url, protocol = settings.url, protocol_of(settings.url)
    if protocol == "file":
        return Folder(Path(path_of(url)))
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise ValueError(f"voices at {protocol}:// need fsspec's driver for it: {error}") from error
    # A listing that is kept would hide what other processes do.
    options = {**kind._get_kwargs_from_urls(url), **settings.options, "use_listings_cache": False}
    return ObjectStore(fsspec.filesystem(protocol, **options), kind._strip_protocol(url))


@contextmanager
def reaching(doing: str) -> Iterator[None]:
    """What a place raises, as VoiceStoreUnavailable; the log says what it was, without a path or a message in it."""
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
            "The place where voices are stored can't be reached or refuses; try again shortly. "
            "The service's log says what failed.",
            code="voice_store_failed",
            retry_after_s=RETRY_AFTER_RESTART_S,
        ) from error
