"""The list of all voices, and how several processes change it without losing each other's changes.

A voice exists if, and only if, the newest list names it. Lists are numbered files (`catalog/0000000042`), and a change
is made by creating the next number exclusively: whoever finds it taken reads that list and decides anew. So a change
happens whole or not at all, name and content are taken in the same moment, limits hold exactly over any number of
processes, and a process may die at any point: there is no lock that it could take along, and no name that it could
block.

An older list holds what somebody may have deleted since, so it is emptied as soon as a newer one is there; by whoever
made that, or, where that one died, by the next one to read. The last `KEPT` numbers stay taken, empty, so that a
process that was asleep can't create a number that others have long passed; one that slept through all of them sees that
from the listing after its creation, and decides anew.
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
from voices.place import Place, reaching
from voices.record import VoiceRecord

log = logging.getLogger(__name__)

FOLDER = "catalog"
KEPT = 32
_NUMBER = re.compile(r"\d{10}")
_MOST_TRIES = 200
_MOST_READS = 20


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    token: str  #: makes this file unlike any other
    voices: tuple[VoiceRecord, ...] = ()


@dataclass(frozen=True)
class Voicelist:
    """All voices at one moment, the oldest first."""

    records: tuple[VoiceRecord, ...] = ()

    @cached_property
    def by_id(self) -> Mapping[str, VoiceRecord]:
        return {record.id: record for record in self.records}

    @cached_property
    def by_name(self) -> Mapping[str, VoiceRecord]:
        return {record.name: record for record in self.records}

    @cached_property
    def clip_bytes(self) -> int:
        return sum(record.clip.bytes for record in self.records)

    def adding(self, record: VoiceRecord) -> Voicelist:
        return Voicelist((*self.records, record))

    def without(self, voice_id: str) -> Voicelist:
        return Voicelist(tuple(record for record in self.records if record.id != voice_id))


class Catalog:
    """One process's view. `contended` counts the changes that had to be decided anew."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: tuple[int, Voicelist] = (0, Voicelist())
        self._changing = threading.Lock()  # threads of one process need not compete
        self.contended = 0

    def read(self) -> Voicelist:
        """The newest list. Costs a listing of one small folder, and a read where there is a newer list than known.

        Raises VoiceStoreUnavailable, and InternalError where the list is damaged."""
        return self._newest()[1]

    def change(self, decide: Callable[[Voicelist], Voicelist | None]) -> Voicelist:
        """The newest list after a change. `decide` makes the new list from the newest one, or None where that needs no
        change; it is called again, with a newer list, as often as others were faster. What it raises is raised.

        After VoiceStoreUnavailable the change may have been made or not; any other error means that it was not."""
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

    def _newest(self) -> tuple[int, Voicelist]:
        number = 0
        for _ in range(_MOST_READS):
            with reaching("looking for the newest list"):
                sizes = self._numbers()
                known = self._known
                number = max(sizes, default=0)
                if number == known[0]:
                    return known
                data = self._place.read(_path(number)) if number else _encode(Voicelist())
            if data:
                known = self._known = (number, _decode(data))
                self._empty_older(number, sizes)
                return known
        # Read empty or gone again and again: emptied by somebody who was faster, 20 times over, or by hand.
        raise _damaged(None)

    def _commit(self, number: int, voices: Voicelist) -> bool:
        with reaching("writing a new list"):
            if not self._place.create(_path(number), _encode(voices)):
                return False
            sizes = self._numbers()
        if max(sizes, default=number) - number >= KEPT:
            return False
        self._empty_older(number, sizes)
        return True

    def _empty_older(self, newest: int, sizes: Mapping[int, int]) -> None:
        """Failing, it leaves that to the next one: the change itself has been made."""
        try:
            for number, size in sizes.items():
                if number <= newest - KEPT:
                    self._place.remove(_path(number))
                elif number < newest and size:
                    self._place.write(_path(number), b"")
        except Exception as error:
            log.warning(
                "an older list of voices could not be emptied, the next change will: %s.%s",
                type(error).__module__,
                type(error).__qualname__,
            )

    def _numbers(self) -> dict[int, int]:
        return {int(name): size for name, size in self._place.sizes(FOLDER).items() if _NUMBER.fullmatch(name)}


def _path(number: int) -> str:
    return f"{FOLDER}/{number:010}"


def _encode(voices: Voicelist) -> bytes:
    return _File(token=secrets.token_hex(16), voices=voices.records).model_dump_json().encode()


def _decode(data: bytes) -> Voicelist:
    try:
        return Voicelist(_File.model_validate_json(data).voices)
    except ValidationError as error:
        raise _damaged(error) from None


def _damaged(error: ValidationError | None) -> InternalError:
    # A ValidationError quotes the names, transcripts and consents that it chokes on.
    where = [problem["loc"] for problem in error.errors(include_input=False)][:3] if error else "it is empty"
    log.error("the newest list of voices can't be read (%s); nothing is stored until it is restored or removed", where)
    return InternalError(
        "The list of stored voices is damaged, so no voice can be found or stored; whoever runs this "
        "service must restore it. Its log says more.",
        code="voice_list_damaged",
    )
