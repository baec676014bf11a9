"""What a process that died has left behind, and what a deletion could not remove: folders that no list names."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from voices.catalog import Catalog
from voices.place import Place, reaching
from voices.record import FOLDER_NAME

log = logging.getLogger(__name__)

FOLDER = "voices"
#: Nobody writes a voice for so long before it is on the list. Machines' clocks must agree within half of it.
ABANDONED_S = 3600.0
EVERY_S = 600.0
_OWN = re.compile(FOLDER_NAME)


class Sweeper:
    """`now`: seconds since the epoch."""

    def __init__(self, place: Place, catalog: Catalog, now: Callable[[], float]) -> None:
        self._place = place
        self._catalog = catalog
        self._now = now
        self._lock = threading.Lock()
        self._swept = float("-inf")

    def is_due(self) -> bool:
        """True for one caller every ten minutes, the first one included."""
        with self._lock:
            if time.monotonic() - self._swept < EVERY_S:
                return False
            self._swept = time.monotonic()
            return True

    def sweep(self) -> int:
        """Returns how many folders went. Raises VoiceStoreUnavailable."""
        before = self._now() - ABANDONED_S
        with reaching("sweeping up"):
            folders = self._place.folders(FOLDER)  # before the list: what is stored meanwhile is on that
            named = {record.folder for record in self._catalog.read().records}
            gone = [name for name in folders if name not in named and _born(name) < before]
            for name in gone:
                self._place.remove_folder(f"{FOLDER}/{name}")
            self._place.tidy(before)
        if gone:
            log.info("removed the files of %d voices that were never stored, or are deleted", len(gone))
        return len(gone)


def _born(folder: str) -> float:
    """Never, for a folder that is not ours."""
    ours = _OWN.match(folder)
    return int(ours[1], 16) if ours else float("inf")
