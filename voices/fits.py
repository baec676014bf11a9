"""The fits of stored voices: the queue of a fitting service, its claims, and the fitted voices that it made.

    work = fits.take(engine, "service 1")       # the oldest fit that is free, with a claim on it
    fits.keep(work, 3, 8, state)                # now and then: another service goes on from here
    fits.finish(work, outcome)                  # the fitted voice, or the reason to keep the steered one

A service renews its claim, or another one takes the fit up from the state that was kept last. So a fit survives the end
of any process. Two services may for a moment work on one fit; the one without the claim learns it at its next call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from engines.contract import Arrays, FitOutcome
from speech.errors import SpeechError
from voices import engine_arrays
from voices.catalog import Catalog, VoiceList
from voices.engine_arrays import hash_of_engine
from voices.fit_list import Fit, FitCatalog, FitList
from voices.record import PublicFit, VoiceRecord, hash_of
from voices.storage import Storage, storage_errors

log = logging.getLogger(__name__)

FOLDER = "fits"
STATE, VOICE = "state.npz", "voice.npz"
START = "start.npz"  #: the steered voice of a clip that is not stored
#: A claim that is not renewed for this long is over. Clocks that differ by more cost work that is done twice.
CLAIM_S = 15.0
#: A fit that has ended so many services ends no more.
MOST_TAKEN = 5
ENDED_SERVICES = f"the service ended {MOST_TAKEN} times in the middle of it"

Engine = tuple[str, str]  #: name and version


class FitLost(Exception):
    """The claim is over: the voice is deleted, another service has the fit, or it was asked for again."""


@dataclass(frozen=True)
class Hold:
    """A request's hold on the fit of a clip that is not stored; `before` is what the fit was held until before."""

    clip: str
    engine: str
    until: float
    before: float


@dataclass(frozen=True)
class Work:
    """A fit that one service has a claim on, and a voice with its clip; None for a clip that came with a request."""

    fit: Fit
    record: VoiceRecord | None
    engine: Engine


class Fits:
    """The fits, as one of several processes uses them.

    Every method may raise VoiceStoreUnavailable (the storage failed) and InternalError (the stored data are damaged).

    Args:
        storage: the files.
        catalog: the list of all voices.
        now: the clock, in seconds since the epoch.
    """

    def __init__(self, storage: Storage, catalog: Catalog, now: Callable[[], float]) -> None:
        self._storage = storage
        self._voices = catalog
        self._now = now
        self._list = FitCatalog(storage)

    def ask(self, record: VoiceRecord, engine: Engine, by: str | None = None, *, again: bool = False) -> PublicFit:
        """Queue the fit of a voice, unless its clip has one.

        Args:
            record: a voice that wants a fit.
            engine: name and version.
            by: trace id of the request that asks.
            again: queue it also where it was made before; the voice in use stays in use until its end.

        Returns:
            The fit as it is now.
        """
        clip, key = _clip_of(record), hash_of_engine(engine)

        def decide(fits: FitList) -> FitList | None:
            before = fits.by_key.get((clip, key))
            if before is not None and (before.open or not again):
                return None
            return fits.putting(Fit.asked(clip, key, self._now(), by, before))

        return self._list.change(decide).by_key[clip, key].public()

    def ask_for_clip(self, clip: bytes, steered: Arrays, engine: Engine, by: str, hold_s: float) -> Hold:
        """Queue the fit of a clip that is not stored, unless it has one, and keep it for so long at most.

        Args:
            clip: the file.
            steered: the arrays that the engine found in it. The clip itself is not stored.
            engine: name and version.
            by: trace id of the request that asks.
            hold_s: seconds until the fit is forgotten, unless a stored voice has the clip.

        Returns:
            The hold, for `held` and `let_go`.
        """
        hashed, key, until = hash_of(clip), hash_of_engine(engine), self._now() + hold_s
        fit, held = Fit.asked(hashed, key, self._now(), by).with_(held_until=until), list[float]()

        def decide(fits: FitList) -> FitList | None:
            held.clear()
            before = fits.by_key.get((hashed, key))
            if before is None:
                return fits.putting(fit)
            held.append(before.held_until)
            return fits.putting(before.with_(held_until=until)) if before.held_until < until else None

        found = self._list.read().by_key.get((hashed, key), fit)
        if found.open:  # a stored voice's too: that may be deleted before its fit is begun
            self._write_arrays(f"{found.folder}/{START}", steered)
        if self._list.change(decide).by_key[hashed, key].folder != fit.folder:
            self._remove(fit.folder)
        return Hold(hashed, key, until, held[0] if held else 0.0)

    def held(self, hold: Hold) -> Fit | None:
        """Return the fit that a request holds; None if it is gone."""
        return self._list.read().by_key.get((hold.clip, hold.engine))

    def let_go(self, hold: Hold) -> None:
        """End a hold, unless a later request has extended it. `prune` forgets what no request holds."""

        def decide(fits: FitList) -> FitList | None:
            fit = fits.by_key.get((hold.clip, hold.engine))
            return fits.putting(fit.with_(held_until=hold.before)) if fit and fit.held_until == hold.until else None

        self._list.change(decide)

    def of_voice(self, record: VoiceRecord, engine: Engine) -> Fit | None:
        """Return the fit of a stored voice; None where there is none yet, or the voice is gone."""
        return self._list.read().by_key.get((_clip_of(record), hash_of_engine(engine)))

    def prune(self) -> None:
        """Forget the fits of clips that no voice has and no request waits for."""
        gone: set[str] = set()

        def decide(fits: FitList) -> FitList | None:
            kept = self._needed(fits)
            gone.clear()
            gone.update(fits.folders() - kept.folders())
            return kept if kept.fits != fits.fits else None

        self._list.change(decide)
        for folder in gone:
            self._remove(folder)

    def _needed(self, fits: FitList) -> FitList:
        voices, now = self._voices.read(), self._now()
        return FitList(tuple(fit for fit in fits.fits if voices.holds_clip(fit.clip) or fit.held_until > now))

    def shown(self, records: Iterable[VoiceRecord], engine: Engine) -> dict[str, PublicFit]:
        """Return the fits of those voices that want one, by the voice's id."""
        key = hash_of_engine(engine)
        by_key: Mapping[tuple[str, str], Fit] | None = None
        found = {}
        for record in records:
            if record.fit and record.clip_hash:
                by_key = self._list.read().by_key if by_key is None else by_key
                fit = by_key.get((record.clip_hash, key))
                found[record.id] = fit.public() if fit else PublicFit(state="queued")
        return found

    def result(self, record: VoiceRecord, engine: Engine) -> str | None:
        """Return the folder of the fitted voice that requests use; None where there is none."""
        if not (record.fit and record.clip_hash):
            return None
        fit = self._list.read().by_key.get((record.clip_hash, hash_of_engine(engine)))
        return fit.result if fit else None

    def arrays(self, result: str) -> Arrays | None:
        """Return a fitted voice; None if it is gone or damaged."""
        return self._read(f"{FOLDER}/{result}/{VOICE}")

    def pending(self, engine: Engine) -> int:
        """Return how many fits are still to be made, or are under way."""
        key, fits = hash_of_engine(engine), self._needed(self._list.read())
        wanted = {record.clip_hash for record in self._voices.read().records if record.fit}
        return sum((clip, key) not in fits.by_key for clip in wanted if clip) + sum(
            fit.open for fit in fits.fits if fit.engine == key
        )

    def take(self, engine: Engine, worker: str) -> Work | None:
        """Take the oldest fit that is free, with a claim on it for `CLAIM_S`; None if there is none.

        A voice that wants a fit and has none, because the engine's version is new or a request was cut off, gets one.

        Args:
            engine: name and version.
            worker: a token that no other service has.
        """
        key = hash_of_engine(engine)
        taken: list[Fit] = []

        def decide(fits: FitList) -> FitList | None:
            taken.clear()
            voices, now = self._voices.read(), self._now()
            kept = self._needed(fits)
            for fit in sorted(kept.fits, key=lambda fit: fit.asked_at):
                if fit.engine != key or not fit.is_free(now):
                    continue
                if fit.taken >= MOST_TAKEN:
                    kept = kept.putting(fit.with_(state="failed", why=ENDED_SERVICES, worker=None))
                    continue
                taken.append(_claimed(fit, worker, now))
                return kept.putting(taken[0])
            if (missing := _missing(voices, kept, key)) is not None:
                taken.append(_claimed(Fit.asked(missing, key, now, None), worker, now))
                return kept.putting(taken[0])
            return kept if kept.fits != fits.fits else None

        self._list.change(decide)
        if not taken:
            return None
        holders = [record for record in self._voices.read().records if record.clip_hash == taken[0].clip]
        return Work(taken[0], max(holders, key=lambda record: record.fit, default=None), engine)

    def start(self, work: Work) -> Arrays | None:
        """Return the steered voice of a clip that came with a request; None for a stored voice's."""
        return self._read(f"{FOLDER}/{work.fit.folder}/{START}")

    def renew(self, work: Work) -> None:
        """Renew the claim. Raises FitLost if it is over."""
        self._change(work, until=self._now() + CLAIM_S)

    def keep(self, work: Work, step: int, steps: int, state: Arrays | None = None) -> None:
        """Store how far a fit is, and renew the claim.

        Args:
            work: the fit.
            step: steps made.
            steps: steps at most.
            state: `VoiceFit.state()`, from which another service goes on; None leaves the last one.

        Raises:
            FitLost: the claim is over.
        """
        if state is not None:
            self._write(work, STATE, state)
        self._change(work, step=step, steps=steps, until=self._now() + CLAIM_S)

    def state(self, work: Work) -> Arrays | None:
        """Return the state that was kept last; None if there is none, or it is damaged."""
        return self._read(f"{FOLDER}/{work.fit.folder}/{STATE}")

    def finish(self, work: Work, outcome: FitOutcome) -> None:
        """Store the outcome of a fit. Requests use the fitted voice from now on, if it is kept.

        Raises:
            FitLost: the claim is over.
        """
        if outcome.kept:
            self._write(work, VOICE, outcome.voice.arrays)
        self._end(
            work,
            state="done" if outcome.kept else "kept_steered",
            why=outcome.why,
            step=outcome.steps,
            result=work.fit.folder if outcome.kept else None,
        )

    def fail(self, work: Work, why: str) -> None:
        """Store that a fit has failed. A fitted voice of an earlier fit stays in use.

        Raises:
            FitLost: the claim is over.
        """
        self._end(work, state="failed", why=why)

    def discard(self, work: Work) -> None:
        """Remove the files of a fit that was lost, unless the list needs them. Failures are left to the sweeper."""
        with suppress(SpeechError):
            if work.fit.folder not in self._list.read().folders():
                self._remove(work.fit.folder)

    def forget(self, record: VoiceRecord) -> None:
        """Remove the fits of a deleted voice, unless another voice has the same clip."""
        clip, gone = record.clip_hash, set[str]()
        if clip is None:
            return

        def decide(fits: FitList) -> FitList | None:
            gone.clear()
            if self._voices.read().holds_clip(clip):
                return None
            now = self._now()
            kept = FitList(tuple(fit for fit in fits.fits if fit.clip != clip or fit.held_until > now))
            gone.update(fits.folders() - kept.folders())
            return kept if gone else None

        self._list.change(decide)
        for folder in gone:
            self._remove(folder)

    def folders(self) -> set[str]:
        """Return the folders that the list names, for the sweeper."""
        return self._list.read().folders()

    def _end(self, work: Work, **changes: object) -> None:
        fits = self._change(work, worker=None, until=0.0, **changes)
        needed = fits.folders()
        with suppress(SpeechError), storage_errors("removing what a fit needs no more"):
            for name in (STATE, START):
                self._storage.remove(f"{FOLDER}/{work.fit.folder}/{name}")
        if work.fit.result and work.fit.result not in needed:
            self._remove(work.fit.result)

    def _change(self, work: Work, **changes: object) -> FitList:
        def decide(fits: FitList) -> FitList:
            now = fits.by_key.get((work.fit.clip, work.fit.engine))
            if now is None or (now.folder, now.worker, now.taken) != (
                work.fit.folder,
                work.fit.worker,
                work.fit.taken,
            ):
                raise FitLost
            return fits.putting(now.with_(**changes))

        return self._list.change(decide)

    def _write(self, work: Work, name: str, arrays: Arrays) -> None:
        self._write_arrays(f"{work.fit.folder}/{name}", arrays)

    def _write_arrays(self, path: str, arrays: Arrays) -> None:
        data = engine_arrays.pack(arrays)
        with storage_errors("writing a fit"):
            self._storage.write(f"{FOLDER}/{path}", data)

    def _read(self, path: str) -> Arrays | None:
        with storage_errors("reading a fit"):
            data = self._storage.read(path)
        if data is None:
            return None
        try:
            return engine_arrays.unpack(data)
        except engine_arrays.Damaged:
            log.warning("a stored fit is damaged; it is taken to be absent")
            return None

    def _remove(self, folder: str) -> None:
        """Remove a folder. A failure is left to the next sweep."""
        with suppress(SpeechError), storage_errors("removing a fit"):
            self._storage.remove_folder(f"{FOLDER}/{folder}")


def _clip_of(record: VoiceRecord) -> str:
    if record.clip_hash is None:
        raise ValueError("the clip's hash is not known: call Voices.want_fit first")
    return record.clip_hash


def _claimed(fit: Fit, worker: str, now: float) -> Fit:
    return fit.with_(state="running", worker=worker, until=now + CLAIM_S, taken=fit.taken + 1, why="")


def _missing(voices: VoiceList, fits: FitList, engine: str) -> str | None:
    """Return the clip of the oldest voice that wants a fit and has none."""
    wanted = (record.clip_hash for record in voices.records if record.fit and record.clip_hash)
    return next((clip for clip in wanted if (clip, engine) not in fits.by_key), None)
