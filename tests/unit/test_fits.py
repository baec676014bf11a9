"""The fits of stored voices: their states, claims and files, over several services and through their ends."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from engines.contract import FitOutcome, Voice
from speech.errors import VoiceNotFound
from tests.helpers.enrolments import clip_of, enrolment, facts, store
from voices import VoiceRecord, Voices, VoiceSettings
from voices.fits import CLAIM_S, ENDED_SERVICES, MOST_TAKEN, FitLost, Work
from voices.storage import open_storage
from voices.sweeper import ABANDONED_S

ENGINE, NEWER = ("embedded", "1"), ("embedded", "2")


class Place:
    """A store with a clock of its own; each `Voices` is another process."""

    def __init__(self, folder) -> None:
        self.settings = VoiceSettings(url=str(folder))
        self.storage = open_storage(self.settings)
        self.now = 1_764_109_200.0

    def process(self) -> Voices:
        return Voices(self.storage, self.settings, now=lambda: self.now)

    def fit_folders(self) -> list[str]:
        return self.storage.folders("fits")


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path) -> Place:
    return Place(tmp_path if request.param == "folder" else f"memory://{tmp_path.name}")


@pytest.fixture
def voices(place) -> Voices:
    return place.process()


def outcome(kept: bool = True, number: float = 1.0) -> FitOutcome:
    voice = Voice({"style": np.full(3, number, np.float32)})
    return FitOutcome(voice, kept, "" if kept else "it is hoarse", "all_steps", 8, 0.5, 0.3, 12.0)


def state_of(voices: Voices, record: VoiceRecord, engine=ENGINE) -> str | None:
    fit = voices.fits.shown([record], engine).get(record.id)
    return fit and " ".join(filter(None, [fit.state, f"{fit.step}/{fit.steps}" if fit.steps else "", fit.why]))


def taken(voices: Voices, worker: str = "one", engine=ENGINE) -> Work:
    work = voices.fits.take(engine, worker)
    assert work is not None
    return work


def fitted(voices: Voices, record: VoiceRecord, engine=ENGINE) -> float | None:
    result = voices.fits.result(record, engine)
    return None if result is None else float(voices.fits.arrays(result)["style"][0])


def without_fit(voices: Voices, name: str, clip: str) -> VoiceRecord:
    wished, data = enrolment(name), clip_of(clip)
    return voices.create(type(wished)(name, wished.dialect, wished.consent, fit=False), data, facts(data))[0]


def test_a_fit_goes_from_queued_to_done_and_every_process_sees_it(place, voices):
    record, _ = store(voices)
    other = place.process()
    assert voices.fits.ask(record, ENGINE, "ab" * 16).state == "queued" and other.fits.pending(ENGINE) == 1
    work = taken(other)
    assert (work.record, work.fit.asked_by, work.engine) == (record, "ab" * 16, ENGINE)
    assert state_of(voices, record) == "running" and fitted(voices, record) is None
    other.fits.keep(work, 3, 8, {"step": np.array(3)})
    assert state_of(voices, record) == "running 3/8"
    other.fits.finish(work, outcome())
    assert state_of(voices, record) == "done 8/8" and fitted(voices, record) == 1
    assert voices.fits.pending(ENGINE) == 0 and voices.fits.take(ENGINE, "two") is None
    assert list(place.storage.sizes(f"fits/{work.fit.folder}")) == ["voice.npz"], "the state is needed no more"


def test_a_voice_that_is_no_better_stays_steered_and_says_why(place, voices):
    record, _ = store(voices)
    voices.fits.finish(taken(voices), outcome(kept=False))
    assert state_of(voices, record) == "kept_steered it is hoarse" and fitted(voices, record) is None


def test_a_failed_fit_says_why_and_is_made_again_only_when_asked(voices):
    record, _ = store(voices)
    voices.fits.fail(taken(voices), "the clip is gone")
    assert state_of(voices, record) == "failed the clip is gone" and voices.fits.pending(ENGINE) == 0
    assert voices.fits.take(ENGINE, "one") is None
    assert voices.fits.ask(record, ENGINE).state == "failed", "an enrolment asks for no second one"
    assert voices.fits.ask(record, ENGINE, again=True).state == "queued"
    assert taken(voices).record == record


def test_a_second_fit_replaces_the_first_at_its_end_and_not_before(place, voices):
    record, _ = store(voices)
    first = taken(voices)
    voices.fits.finish(first, outcome(number=1))
    voices.fits.ask(record, ENGINE, again=True)
    second = taken(voices)
    assert state_of(voices, record) == "running" and fitted(voices, record) == 1
    voices.fits.finish(second, outcome(number=2))
    assert fitted(voices, record) == 2 and place.fit_folders() == [second.fit.folder]
    voices.fits.ask(record, ENGINE, again=True)
    voices.fits.fail(taken(voices), "no")
    assert fitted(voices, record) == 2, "a failure takes nothing away"
    voices.fits.ask(record, ENGINE, again=True)
    voices.fits.finish(taken(voices), outcome(kept=False))
    assert fitted(voices, record) is None, "the newest check counts"


def test_a_fit_under_way_is_not_begun_again_by_asking(voices):
    record, _ = store(voices)
    work = taken(voices)
    assert voices.fits.ask(record, ENGINE, again=True).state == "running"
    voices.fits.finish(work, outcome())
    assert fitted(voices, record) == 1


def test_without_a_wish_there_is_no_fit_until_one_is_asked_for(voices):
    record = without_fit(voices, "anna", "a clip")
    assert state_of(voices, record) is None and voices.fits.pending(ENGINE) == 0
    assert voices.fits.take(ENGINE, "one") is None
    wanted = voices.want_fit(record)
    assert wanted == voices.find("anna") and wanted.fit and state_of(voices, wanted) == "queued"
    assert taken(voices).record == wanted and voices.want_fit(wanted) == wanted


def test_a_voice_from_before_there_were_fits_gets_its_clips_hash_when_asked(place, voices):
    record, _ = store(voices)
    voices._catalog.change(lambda known: known.replacing(record.model_copy(update={"fit": False, "clip_hash": None})))
    old = voices.find("anna")
    assert state_of(voices, old) is None and voices.fits.take(ENGINE, "one") is None
    with pytest.raises(ValueError, match="want_fit"):
        voices.fits.ask(old, ENGINE)
    assert voices.want_fit(old) == record
    voices.delete(record)
    with pytest.raises(VoiceNotFound):
        voices.want_fit(old)


def test_the_oldest_is_made_first(place, voices):
    names = ["anna", "bert", "carl"]
    for name in names:
        voices.fits.ask(store(voices, name, name)[0], ENGINE)
        place.now += 1
    made = []
    for _ in names:
        work = taken(voices)
        made.append(work.record.name)
        voices.fits.finish(work, outcome())
    assert made == names


def test_a_service_that_ended_is_succeeded_from_the_state_it_kept(place, voices):
    record, _ = store(voices)
    voices.fits.keep(taken(voices, "one"), 5, 8, {"step": np.array(5)})
    after = place.process()
    assert after.fits.take(ENGINE, "two") is None and after.fits.pending(ENGINE) == 1, "its claim holds"
    place.now += CLAIM_S + 1
    work = taken(after, "two")
    assert work.record == record and after.fits.state(work)["step"] == 5
    assert state_of(after, record) == "running 5/8", "nobody sees it go back"
    after.fits.finish(work, outcome())
    assert fitted(voices, record) == 1


def test_a_claim_that_is_renewed_holds(place, voices):
    store(voices)
    work, other = taken(voices, "one"), place.process()
    for _ in range(4):
        place.now += CLAIM_S * 0.9
        voices.fits.renew(work)
        assert other.fits.take(ENGINE, "two") is None


def test_a_service_that_slept_through_its_claim_changes_nothing_any_more(place, voices):
    record, _ = store(voices)
    slept = taken(voices, "one")
    place.now += CLAIM_S + 1
    successor = place.process()
    work = taken(successor, "two")
    for late in (
        lambda: voices.fits.renew(slept),
        lambda: voices.fits.keep(slept, 1, 8, {"step": np.array(1)}),
        lambda: voices.fits.finish(slept, outcome(number=9)),
        lambda: voices.fits.fail(slept, "no"),
    ):
        with pytest.raises(FitLost):
            late()
        assert state_of(voices, record) == "running"
    voices.fits.discard(slept)
    successor.fits.finish(work, outcome(number=2))
    assert fitted(voices, record) == 2, "the folder is the successor's too, and was left alone"


def test_the_same_service_in_a_second_claim_is_told_from_its_first(place, voices):
    store(voices)
    first = taken(voices, "one")
    place.now += CLAIM_S + 1
    second = taken(voices, "one")
    with pytest.raises(FitLost):
        voices.fits.renew(first)
    voices.fits.renew(second)


def test_a_fit_that_ends_every_service_is_given_up(place, voices):
    record, _ = store(voices)
    for number in range(MOST_TAKEN):
        taken(voices, str(number))
        place.now += CLAIM_S + 1
    assert voices.fits.take(ENGINE, "last") is None and voices.fits.pending(ENGINE) == 0
    assert state_of(voices, record) == f"failed {ENDED_SERVICES}"
    assert voices.fits.ask(record, ENGINE, again=True).state == "queued" and taken(voices).fit.taken == 1


def test_two_services_at_once_never_have_the_same_fit(place, voices):
    records = [store(voices, f"name{n}", f"clip{n}")[0] for n in range(6)]
    found, together = [], threading.Barrier(3)

    def serve(name: str) -> None:
        mine = place.process()
        together.wait()
        while work := mine.fits.take(ENGINE, name):
            found.append(work.record.id)
            mine.fits.finish(work, outcome())

    threads = [threading.Thread(target=serve, args=(name,)) for name in ("one", "two", "three")]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert sorted(found) == sorted(record.id for record in records)
    assert {state_of(voices, record) for record in records} == {"done"}


def test_voices_with_the_same_clip_share_one_fit(place, voices):
    first, _ = store(voices, "anna", "a clip")
    second, _ = store(voices, "bert", "a clip", transcript="what is said")
    for record in (first, second):
        voices.fits.ask(record, ENGINE)
    assert voices.fits.pending(ENGINE) == 1
    voices.fits.finish(taken(voices), outcome())
    assert voices.fits.take(ENGINE, "one") is None and fitted(voices, first) == fitted(voices, second) == 1
    voices.delete(first)
    assert fitted(voices, second) == 1, "another voice holds the clip"
    voices.delete(second)
    assert place.fit_folders() == [] and voices.fits.folders() == set()


def test_a_voice_that_wants_none_does_not_use_the_fit_of_its_clip(voices):
    plain = without_fit(voices, "anna", "a clip")
    other, _ = store(voices, "bert", "a clip", transcript="what is said")
    voices.fits.finish(taken(voices), outcome())
    assert fitted(voices, other) == 1 and fitted(voices, plain) is None


def test_deleting_a_voice_under_way_ends_its_fit_and_leaves_nothing(place, voices):
    record, _ = store(voices)
    work = taken(voices)
    voices.fits.keep(work, 1, 8, {"step": np.array(1)})
    place.process().delete(record)
    assert place.fit_folders() == []
    with pytest.raises(FitLost):
        voices.fits.keep(work, 2, 8, {"step": np.array(2)})
    voices.fits.discard(work)
    assert place.fit_folders() == [], "what was written meanwhile is removed"
    again, _ = store(voices)
    with pytest.raises(FitLost):
        voices.fits.finish(work, outcome())
    assert fitted(voices, again) is None and state_of(voices, again) == "queued"


def test_a_fit_whose_voice_is_gone_is_forgotten_by_the_next_service(place, voices):
    record, _ = store(voices)
    voices.fits.finish(taken(voices), outcome())
    voices._catalog.change(lambda known: known.without(record.id))  # the deleting process ended here
    assert voices.fits.pending(ENGINE) == 0 and voices.fits.take(ENGINE, "one") is None
    assert voices.fits.folders() == set() and len(place.fit_folders()) == 1
    place.now += ABANDONED_S + 1
    assert voices.sweep() == 2 and place.fit_folders() == []


def test_the_sweeper_leaves_fits_that_are_in_use_alone(place, voices):
    record, _ = store(voices)
    voices.fits.finish(taken(voices), outcome())
    place.now += 10 * ABANDONED_S
    assert voices.sweep() == 0 and fitted(voices, record) == 1


def test_another_version_of_the_engine_makes_its_own_and_the_old_one_stays(voices):
    record, _ = store(voices)
    voices.fits.finish(taken(voices), outcome(number=1))
    assert state_of(voices, record, NEWER) == "queued" and fitted(voices, record, NEWER) is None
    assert voices.fits.pending(NEWER) == 1, "nobody has asked, but the voice wants one"
    voices.fits.finish(taken(voices, engine=NEWER), outcome(number=2))
    assert (fitted(voices, record, NEWER), fitted(voices, record)) == (2, 1)


def test_a_damaged_file_is_taken_to_be_absent(place, voices):
    record, _ = store(voices)
    work = taken(voices)
    voices.fits.keep(work, 1, 8, {"step": np.array(1)})
    place.storage.write(f"fits/{work.fit.folder}/state.npz", b"damaged")
    assert voices.fits.state(work) is None
    voices.fits.finish(work, outcome())
    place.storage.write(f"fits/{work.fit.folder}/voice.npz", b"damaged")
    result = voices.fits.result(record, ENGINE)
    assert result is not None and voices.fits.arrays(result) is None


STEERED = {"style": np.zeros(3, np.float32)}


def test_a_clip_that_is_not_stored_is_fitted_for_the_request_that_waits(place, voices):
    hold = voices.fits.ask_for_clip(b"a clip", STEERED, ENGINE, "ab" * 16, hold_s=60)
    assert voices.fits.pending(ENGINE) == 1
    work = taken(place.process())
    assert work.record is None and work.fit.asked_by == "ab" * 16
    assert (voices.fits.start(work)["style"] == 0).all()
    voices.fits.finish(work, outcome(number=4))
    fit = voices.fits.held(hold)
    assert fit.state == "done" and voices.fits.arrays(fit.result)["style"][0] == 4
    assert list(place.storage.sizes(f"fits/{work.fit.folder}")) == ["voice.npz"]
    voices.fits.prune()
    assert voices.fits.held(hold) == fit, "the request may not have read it yet"
    place.now += 61
    voices.fits.prune()
    assert voices.fits.held(hold) is None and place.fit_folders() == []


def test_requests_with_the_same_clip_share_a_fit_that_is_kept_for_the_last_of_them(place, voices):
    for hold_s in (60, 100, 20):
        hold = voices.fits.ask_for_clip(b"a clip", STEERED, ENGINE, "ab" * 16, hold_s)
    assert voices.fits.pending(ENGINE) == 1 and len(place.fit_folders()) == 1
    place.now += 99
    voices.fits.prune()
    assert voices.fits.held(hold) is not None
    place.now += 2
    assert voices.fits.pending(ENGINE) == 0 and voices.fits.take(ENGINE, "one") is None
    assert voices.fits.held(hold) is None


def test_a_clip_of_a_stored_voice_uses_that_ones_fit_and_outlives_the_voice_while_it_is_waited_for(place, voices):
    record, _ = store(voices, clip="a clip")
    voices.fits.finish(taken(voices), outcome(number=5))
    hold = voices.fits.ask_for_clip(clip_of("a clip"), STEERED, ENGINE, "ab" * 16, hold_s=60)
    assert hold.clip == record.clip_hash and voices.fits.held(hold).state == "done"
    voices.delete(record)
    assert voices.fits.arrays(voices.fits.held(hold).result)["style"][0] == 5
    place.now += 61
    voices.fits.prune()
    assert place.fit_folders() == []


def test_a_clip_that_is_stored_meanwhile_keeps_its_fit(place, voices):
    voices.fits.ask_for_clip(clip_of("a clip"), STEERED, ENGINE, "ab" * 16, hold_s=60)
    voices.fits.finish(taken(voices), outcome(number=6))
    record, _ = store(voices, clip="a clip")
    place.now += 61
    voices.fits.prune()
    assert fitted(voices, record) == 6 and voices.fits.pending(ENGINE) == 0


def test_a_clip_is_fitted_though_the_stored_voice_that_queued_its_fit_is_deleted(place, voices):
    record, _ = store(voices, clip="a clip")
    voices.fits.ask(record, ENGINE)
    hold = voices.fits.ask_for_clip(clip_of("a clip"), STEERED, ENGINE, "ab" * 16, hold_s=60)
    voices.delete(record)
    work = taken(voices)
    assert work.record is None and voices.fits.start(work) is not None
    voices.fits.finish(work, outcome())
    assert voices.fits.held(hold).state == "done"


def test_a_request_that_ends_lets_go_of_its_fit_alone(place, voices):
    first = voices.fits.ask_for_clip(b"a clip", STEERED, ENGINE, "ab" * 16, hold_s=60)
    second = voices.fits.ask_for_clip(b"a clip", STEERED, ENGINE, "ab" * 16, hold_s=100)
    voices.fits.let_go(first)
    voices.fits.prune()
    assert voices.fits.held(second) is not None, "the second one waits"
    voices.fits.let_go(second)
    voices.fits.prune()
    assert voices.fits.held(first) is not None, "it is held as before the second one came"
    place.now += 61
    voices.fits.prune()
    assert voices.fits.held(first) is None and place.fit_folders() == []
    third = voices.fits.ask_for_clip(b"a clip", STEERED, ENGINE, "ab" * 16, hold_s=60)
    voices.fits.let_go(third)
    assert voices.fits.pending(ENGINE) == 0 and voices.fits.take(ENGINE, "one") is None, "the client has left"
