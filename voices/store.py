"""All stored voices, for one process of any number."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from engines.contract import Arrays
from speech.errors import (
    RETRY_AFTER_RESTART_S,
    Conflict,
    InternalError,
    SpeechError,
    VoiceNotFound,
    VoiceStoreUnavailable,
)
from voices import arrays as engine_arrays
from voices.catalog import Catalog, Voicelist
from voices.enrolment import Enrolment
from voices.names import as_stored
from voices.place import Place, open_place, reaching
from voices.record import ClipFacts, VoiceRecord, content_id
from voices.rules import is_stored
from voices.settings import VoiceSettings
from voices.sweeping import ABANDONED_S, FOLDER, Sweeper

log = logging.getLogger(__name__)

CLIP = "clip"


class Voices:
    """The store at a place. Every method may raise VoiceStoreUnavailable, and InternalError where what is stored is
    damaged. Every process sees what others have done at its next call.

    `now`: seconds since the epoch.
    """

    def __init__(self, place: Place, settings: VoiceSettings, now: Callable[[], float] = time.time) -> None:
        self._place = place
        self._settings = settings
        self._now = now
        self._catalog = Catalog(place)
        self._sweeper = Sweeper(place, self._catalog, now)
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            (
                "created",
                "deleted",
                "arrays_found",
                "arrays_absent",
                "arrays_damaged",
                "clips_damaged",
                "abandoned_removed",
            ),
            0,
        )

    @classmethod
    def open(cls, settings: VoiceSettings) -> Voices | None:
        """None where the settings name no place. Touches nothing yet; ValueError where a driver is missing."""
        return None if settings.url is None else cls(open_place(settings), settings)

    def create(
        self, enrolment: Enrolment, clip: bytes, facts: ClipFacts, owner: str | None = None
    ) -> tuple[VoiceRecord, bool]:
        """Store a voice; False where it was there already: same clip, transcript, name and dialect. The consent and the
        owner are then those of the first time.

        `clip`: the file as it was sent, checked by the caller. Raises Conflict where the name or the content is taken,
        or the store is full. After VoiceStoreUnavailable it may be stored; the same call again tells.
        """
        self._sweep_now_and_then()
        record = VoiceRecord.of(enrolment, clip, facts, owner, self._now(), secrets.token_hex(8))

        def decide(voices: Voicelist) -> Voicelist | None:
            if is_stored(record, voices, self._settings):
                return None
            if self._now() - record.created_at > ABANDONED_S / 2:
                raise VoiceStoreUnavailable(
                    "Storing the voice took far too long; try again.",
                    code="voice_store_slow",
                    retry_after_s=RETRY_AFTER_RESTART_S,
                )
            return voices.adding(record)

        voices = self._catalog.read()
        if not is_stored(record, voices, self._settings):  # nothing is written for what is refused anyway
            with reaching("writing a clip"):
                self._place.write(f"{FOLDER}/{record.folder}/{CLIP}", clip)
            try:
                voices = self._catalog.change(decide)
            except Conflict:
                self._discard(record)
                raise
        kept = voices.by_id[record.id]
        if kept.folder == record.folder:
            self._count("created")
            return kept, True
        self._discard(record)
        return kept, False

    def find(self, name_or_id: str) -> VoiceRecord:
        """Names are matched exactly, after NFC. Raises VoiceNotFound."""
        wanted = as_stored(name_or_id)
        voices = self._catalog.read()
        return _found(voices.by_id.get(wanted) or voices.by_name.get(wanted))

    def all(self) -> list[VoiceRecord]:
        """The oldest first."""
        self._sweep_now_and_then()
        return list(self._catalog.read().records)

    def delete(self, record: VoiceRecord) -> None:
        """Take the voice off the list, then remove all that is stored of it. Raises VoiceNotFound where it is gone
        already, also where the same content has been stored anew since.

        After VoiceStoreUnavailable with the code `voice_files_left` the voice is gone, and its files go with the next
        sweep.
        """
        self._sweep_now_and_then()

        def decide(voices: Voicelist) -> Voicelist:
            kept = voices.by_id.get(record.id)
            if kept is None or kept.folder != record.folder:
                raise _not_found()
            return voices.without(record.id)

        self._catalog.change(decide)
        self._count("deleted")
        try:
            with reaching("removing a voice's files"):
                self._place.remove_folder(f"{FOLDER}/{record.folder}")
        except VoiceStoreUnavailable as error:
            raise VoiceStoreUnavailable(
                "The voice is deleted and can't be used any more, but its files could not be "
                "removed yet; the service tries again by itself.",
                code="voice_files_left",
            ) from error

    def clip(self, voice_id: str) -> bytes:
        """The file as it was sent. Raises VoiceNotFound, and InternalError where it is no longer what it was."""
        record = self._by_id(voice_id)
        with reaching("reading a clip"):
            data = self._place.read(f"{FOLDER}/{record.folder}/{CLIP}")
        if data is not None and content_id(data, record.transcript) == voice_id:
            return data
        if self._by_id(voice_id).folder != record.folder:  # deleted and stored anew in between
            return self.clip(voice_id)
        self._count("clips_damaged")
        log.error("the stored clip of %s is %s", voice_id, "missing" if data is None else "damaged")
        raise InternalError(
            "The stored clip of this voice is missing or damaged. Delete it, and store it again.",
            param="voice",
            code="voice_damaged",
        )

    def arrays(self, voice_id: str, engine: tuple[str, str]) -> Arrays | None:
        """What this engine, (name, version), found in the clip; None where that is not kept, or damaged: find it again
        in `clip`, and keep it. Raises VoiceNotFound."""
        record = self._by_id(voice_id)
        with reaching("reading a voice's arrays"):
            data = self._place.read(self._arrays_at(record, engine))
        if data is None:
            self._count("arrays_absent")
            return None
        try:
            found = engine_arrays.unpack(data)
        except engine_arrays.Damaged:
            self._count("arrays_damaged")
            log.warning("the stored arrays of %s are damaged; they are taken to be absent", voice_id)
            return None
        self._count("arrays_found")
        return found

    def keep_arrays(self, voice_id: str, engine: tuple[str, str], arrays: Arrays) -> None:
        """Whole or not at all; what was kept for this engine before is replaced. Raises VoiceNotFound, also where the
        voice is deleted meanwhile; ValueError for arrays of Python objects."""
        record = self._by_id(voice_id)
        data = engine_arrays.pack(arrays)
        with reaching("writing a voice's arrays"):
            self._place.write(self._arrays_at(record, engine), data)
        kept = self._catalog.read().by_id.get(voice_id)
        if kept is None or kept.folder != record.folder:
            self._discard(record)
            raise _not_found()

    def sweep(self) -> int:
        """Remove what no list names and nobody can still be writing; returns how many folders went. Does itself, every
        ten minutes, with a call that stores, deletes or lists."""
        gone = self._sweeper.sweep()
        self._count("abandoned_removed", gone)
        return gone

    def counters(self) -> dict[str, int]:
        """What this process has done; `contended`: changes decided anew because another process was faster."""
        with self._lock:
            return self._counts | {"contended": self._catalog.contended}

    def _by_id(self, voice_id: str) -> VoiceRecord:
        return _found(self._catalog.read().by_id.get(voice_id))

    def _discard(self, record: VoiceRecord) -> None:
        """What could not be discarded is swept later."""
        with suppress(SpeechError), reaching("removing files that no voice needs"):
            self._place.remove_folder(f"{FOLDER}/{record.folder}")

    def _sweep_now_and_then(self) -> None:
        if self._sweeper.is_due():
            with suppress(SpeechError):  # logged; whoever called meant something else
                self.sweep()

    @staticmethod
    def _arrays_at(record: VoiceRecord, engine: tuple[str, str]) -> str:
        return f"{FOLDER}/{record.folder}/{engine_arrays.file_of(engine)}"

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by


def _found(record: VoiceRecord | None) -> VoiceRecord:
    if record is None:
        raise _not_found()
    return record


def _not_found() -> VoiceNotFound:
    return VoiceNotFound(
        "No voice of this name or id is stored, or no longer. GET /v1/audio/voices lists them all; "
        "names are matched exactly, upper and lower case included.",
        param="voice",
        code="voice_unknown",
    )
