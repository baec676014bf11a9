"""A shared list: a list that several processes change without losing each other's changes.

Lists are numbered files (`catalog/0000000042`). A change creates the next number exclusively; a process that finds the
number taken reads that list and decides again. So a change happens whole or not at all, and limits hold exactly over
any number of processes. A process may die at any point: it holds no lock, and blocks nothing.

An older list names things that may be deleted since. So it is emptied as soon as there is a newer one: by the process
that made that, or by the next reader. The last `KEPT` numbers stay taken, empty, so that a process that was suspended
can't create a number that others have long passed. If it was suspended through all of them, the listing after its
creation shows that, and it decides again.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from pydantic import ValidationError

from speech.errors import RETRY_AFTER_CONTENTION_S, InternalError, VoiceStoreUnavailable
from voices.storage import Storage, storage_errors

log = logging.getLogger(__name__)

KEPT = 32
_NUMBER = re.compile(r"\d{10}")
_MOST_TRIES = 200
_MOST_READS = 20

T = TypeVar("T")


class SharedList(Generic[T]):
    """A list, as one process sees it. `contended` counts the changes that had to be decided again.

    A subclass sets `folder`, and `noun` for messages, and encodes lists.
    """

    folder: str
    noun: str

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: tuple[int, T] = (0, self.empty())
        self._changing = threading.Lock()  # threads of one process need not compete
        self.contended = 0

    def empty(self) -> T:
        """Return the list that there is before the first change."""
        raise NotImplementedError

    def encode(self, value: T) -> bytes:
        """Return a list as a file, unlike every other file."""
        raise NotImplementedError

    def decode(self, data: bytes) -> T:
        """Return the list in a file. Raises pydantic's ValidationError for a damaged one."""
        raise NotImplementedError

    def read(self) -> T:
        """Return the newest list.

        It costs a listing of one small folder, and a read if there is a newer list.

        Raises:
            VoiceStoreUnavailable: the storage failed.
            InternalError: the list is damaged.
        """
        return self._newest()[1]

    def change(self, decide: Callable[[T], T | None]) -> T:
        """Change the list, and return the newest one.

        Args:
            decide: makes the new list from the newest one; None if no change is needed. It is called again, with a
                newer list, each time another process was faster. Its errors are raised.

        Raises:
            VoiceStoreUnavailable: the storage failed; the change may or may not have been made. Any other error means
                that it was not.
        """
        with self._changing:
            for attempt in range(_MOST_TRIES):
                number, value = self._newest()
                changed = decide(value)
                if changed is None:
                    return value
                if self._commit(number + 1, changed):
                    self._known = (number + 1, changed)
                    return changed
                self.contended += 1
                time.sleep(random.uniform(0, 0.002 * min(attempt + 1, 25)))
        raise VoiceStoreUnavailable(
            "Too many voices are being stored or deleted at this moment; try again shortly.",
            code="voice_store_busy",
            retry_after_s=RETRY_AFTER_CONTENTION_S,
        )

    def _newest(self) -> tuple[int, T]:
        number = 0
        for _ in range(_MOST_READS):
            with storage_errors("looking for the newest list"):
                sizes = self._numbers()
                known = self._known
                number = max(sizes, default=0)
                if number == known[0]:
                    return known
                data = self._storage.read(self._path(number)) if number else self.encode(self.empty())
            if data:
                known = self._known = (number, self._decoded(data))
                self._empty_older(number, sizes)
                return known
        # Empty or gone at every read: another process was faster 20 times, or it was emptied by hand.
        raise self._damaged(None)

    def _commit(self, number: int, value: T) -> bool:
        with storage_errors("writing a new list"):
            if not self._storage.create(self._path(number), self.encode(value)):
                return False
            sizes = self._numbers()
        if max(sizes, default=number) - number >= KEPT:
            return False
        self._empty_older(number, sizes)
        return True

    def _empty_older(self, newest: int, sizes: Mapping[int, int]) -> None:
        """Empty older lists. A failure is only logged: the change itself is made, and the next one tries again."""
        try:
            for number, size in sizes.items():
                if number <= newest - KEPT:
                    self._storage.remove(self._path(number))
                elif number < newest and size:
                    self._storage.write(self._path(number), b"")
        except Exception as error:
            log.warning(
                "an older list of %s could not be emptied, the next change will: %s.%s",
                self.noun,
                type(error).__module__,
                type(error).__qualname__,
            )

    def _numbers(self) -> dict[int, int]:
        return {int(name): size for name, size in self._storage.sizes(self.folder).items() if _NUMBER.fullmatch(name)}

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:010}"

    def _decoded(self, data: bytes) -> T:
        try:
            return self.decode(data)
        except ValidationError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: ValidationError | None) -> InternalError:
        # A ValidationError quotes the names, transcripts and consents that it chokes on.
        where = [problem["loc"] for problem in error.errors(include_input=False)][:3] if error else "it is empty"
        log.error(
            "the newest list of %s can't be read (%s); nothing is stored until it is restored or removed",
            self.noun,
            where,
        )
        return InternalError(
            "The list of stored voices is damaged, so no voice can be found or stored. The operator of this "
            "service must restore it; its log says more.",
            code="voice_list_damaged",
        )
