"""The catalog: the list of all voices, which several processes change without losing each other's changes.

A voice exists if, and only if, the newest list names it. Lists are numbered files (`catalog/0000000042`). A change
creates the next number exclusively; a process that finds the number taken reads that list and decides again. So a
change happens whole or not at all, name and content are taken in the same moment, and limits hold exactly over any
number of processes. A process may die at any point: it holds no lock, and blocks no name.

An older list names voices that may be deleted since. So it is emptied as soon as there is a newer one: by the process
that made that, or by the next reader. The last `KEPT` numbers stay taken, empty, so that a process that was suspended
can't create a number that others have long passed. If it was suspended through all of them, the listing after its
creation shows that, and it decides again.
"""

from __future__ import annotations

import logging
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from speech.errors import RETRY_AFTER_CONTENTION_S, InternalError, VoiceStoreUnavailable
from voices.record import VoiceRecord
from voices.storage import Storage, storage_errors

log = logging.getLogger(__name__)

FOLDER = "catalog"
KEPT = 32
_NUMBER = re.compile(r"\d{10}")
_MOST_TRIES = 200
_MOST_READS = 20


class _File(BaseModel):
    """One list as it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    token: str  #: makes this file different from every other
    voices: tuple[VoiceRecord, ...] = ()


@dataclass(frozen=True)
class VoiceList:
    """All voices at one moment, the oldest first."""

    records: tuple[VoiceRecord, ...] = ()

    @cached_property
    def by_id(self) -> Mapping[str, VoiceRecord]:
        """The voices by id."""
        return {record.id: record for record in self.records}

    @cached_property
    def by_name(self) -> Mapping[str, VoiceRecord]:
        """The voices by name."""
        return {record.name: record for record in self.records}

    @cached_property
    def clip_bytes(self) -> int:
        """The bytes of all clips together."""
        return sum(record.clip.bytes for record in self.records)

    def adding(self, record: VoiceRecord) -> VoiceList:
        """Return a list with one more voice."""
        return VoiceList((*self.records, record))

    def replacing(self, record: VoiceRecord) -> VoiceList:
        """Return a list with this record in the place of the one with its id."""
        return VoiceList(tuple(record if record.id == old.id else old for old in self.records))

    def without(self, voice_id: str) -> VoiceList:
        """Return a list without this voice."""
        return VoiceList(tuple(record for record in self.records if record.id != voice_id))


class Catalog:
    """The list, as one process sees it. `contended` counts the changes that had to be decided again."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: tuple[int, VoiceList] = (0, VoiceList())
        self._changing = threading.Lock()  # threads of one process need not compete
        self.contended = 0

    def read(self) -> VoiceList:
        """Return the newest list.

        It costs a listing of one small folder, and a read if there is a newer list.

        Raises:
            VoiceStoreUnavailable: the storage failed.
            InternalError: the list is damaged.
        """
        return self._newest()[1]

    def change(self, decide: Callable[[VoiceList], VoiceList | None]) -> VoiceList:
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
                number, voices = self._newest()
                changed = decide(voices)
                if changed is None:
                    return voices
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

    def _newest(self) -> tuple[int, VoiceList]:
        number = 0
        for _ in range(_MOST_READS):
            with storage_errors("looking for the newest list"):
                sizes = self._numbers()
                known = self._known
                number = max(sizes, default=0)
                if number == known[0]:
                    return known
                data = self._storage.read(_path(number)) if number else _encode(VoiceList())
            if data:
                known = self._known = (number, _decode(data))
                self._empty_older(number, sizes)
                return known
        # Empty or gone at every read: another process was faster 20 times, or it was emptied by hand.
        raise _damaged(None)

    def _commit(self, number: int, voices: VoiceList) -> bool:
        with storage_errors("writing a new list"):
            if not self._storage.create(_path(number), _encode(voices)):
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
                    self._storage.remove(_path(number))
                elif number < newest and size:
                    self._storage.write(_path(number), b"")
        except Exception as error:
            log.warning(
                "an older list of voices could not be emptied, the next change will: %s.%s",
                type(error).__module__,
                type(error).__qualname__,
            )

    def _numbers(self) -> dict[int, int]:
        return {int(name): size for name, size in self._storage.sizes(FOLDER).items() if _NUMBER.fullmatch(name)}


def _path(number: int) -> str:
    return f"{FOLDER}/{number:010}"


def _encode(voices: VoiceList) -> bytes:
    return _File(token=secrets.token_hex(16), voices=voices.records).model_dump_json().encode()


def _decode(data: bytes) -> VoiceList:
    try:
        return VoiceList(_File.model_validate_json(data).voices)
    except ValidationError as error:
        raise _damaged(error) from None


def _damaged(error: ValidationError | None) -> InternalError:
    # A ValidationError quotes the names, transcripts and consents that it chokes on.
    where = [problem["loc"] for problem in error.errors(include_input=False)][:3] if error else "it is empty"
    log.error("the newest list of voices can't be read (%s); nothing is stored until it is restored or removed", where)
    return InternalError(
        "The list of stored voices is damaged, so no voice can be found or stored. The operator of this "
        "service must restore it; its log says more.",
        code="voice_list_damaged",
    )
