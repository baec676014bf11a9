"""The sweeper: removes folders that no list names, left by a process that died or by a deletion that failed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from voices import fits
from voices.catalog import Catalog
from voices.fit_list import FIT_FOLDER_NAME
from voices.fits import Fits
from voices.record import FOLDER_NAME
from voices.storage import Storage, storage_errors

log = logging.getLogger(__name__)

FOLDER = "voices"
#: Storing a voice takes less time than this. Machines' clocks must agree within half of it.
ABANDONED_S = 3600.0
EVERY_S = 600.0
_OWN = re.compile(f"{FOLDER_NAME}|{FIT_FOLDER_NAME}")


class Sweeper:
    """Sweeps one storage; `now` is the clock, in seconds since the epoch."""

    def __init__(self, storage: Storage, catalog: Catalog, fits: Fits, now: Callable[[], float]) -> None:
        self._storage = storage
        self._catalog = catalog
        self._fits = fits
        self._now = now
        self._lock = threading.Lock()
        self._swept = float("-inf")

    def is_due(self) -> bool:
        """Return True for one caller every ten minutes, the first one included."""
        with self._lock:
            if time.monotonic() - self._swept < EVERY_S:
                return False
            self._swept = time.monotonic()
            return True

    def sweep(self) -> int:
        """Remove abandoned folders, and return their number.

        Raises:
            VoiceStoreUnavailable: the storage failed.
        """
        before = self._now() - ABANDONED_S
        with storage_errors("sweeping up"):
            # Folders are listed before the list is read: what is stored meanwhile is on that.
            gone = self._unnamed(FOLDER, before, lambda: {record.folder for record in self._catalog.read().records})
            gone += self._unnamed(fits.FOLDER, before, self._fits.folders)
            for path in gone:
                self._storage.remove_folder(path)
            self._storage.tidy(before)
        if gone:
            log.info("removed the files of %d voices and fits that were never stored, or are deleted", len(gone))
        return len(gone)

    def _unnamed(self, parent: str, before: float, named: Callable[[], set[str]]) -> list[str]:
        """Return the paths of the folders of ours in `parent` that no list names and that are older than `before`."""
        old = [name for name in self._storage.folders(parent) if _made_at(name) < before]
        needed = named() if old else set()
        return [f"{parent}/{name}" for name in old if name not in needed]


def _made_at(folder: str) -> float:
    """Return the time at which a folder was made; infinity for a folder that is not ours."""
    ours = _OWN.match(folder)
    return int(ours[1] or ours[2], 16) if ours else float("inf")
