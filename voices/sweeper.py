"""The sweeper: removes folders that no list names, left by a process that died or by a deletion that failed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from voices.catalog import Catalog
from voices.record import FOLDER_NAME
from voices.storage import Storage, storage_errors

log = logging.getLogger(__name__)

FOLDER = "voices"
#: Storing a voice takes less time than this. Machines' clocks must agree within half of it.
ABANDONED_S = 3600.0
EVERY_S = 600.0
_OWN = re.compile(FOLDER_NAME)


class Sweeper:
    """Sweeps one storage; `now` is the clock, in seconds since the epoch."""

    def __init__(self, storage: Storage, catalog: Catalog, now: Callable[[], float]) -> None:
        self._storage = storage
        self._catalog = catalog
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
            folders = self._storage.folders(FOLDER)  # before the list: what is stored meanwhile is on that
            named = {record.folder for record in self._catalog.read().records}
            gone = [name for name in folders if name not in named and _made_at(name) < before]
            for name in gone:
                self._storage.remove_folder(f"{FOLDER}/{name}")
            self._storage.tidy(before)
        if gone:
            log.info("removed the files of %d voices that were never stored, or are deleted", len(gone))
        return len(gone)


def _made_at(folder: str) -> float:
    """Return the time at which a folder was made; infinity for a folder that is not ours."""
    ours = _OWN.match(folder)
    return int(ours[1], 16) if ours else float("inf")
