"""fitting-service without Serve: a whole fit and its trace, its ends, and a service that takes another one's fit up."""

from __future__ import annotations

import asyncio
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.settings import FittingConfig, GraphConfig
from deployments.stages import base, fit_worker, fitting
from deployments.stages.fit_reporter import joined
from deployments.stages.fit_worker import FitWorker
from deployments.stages.fitting import FittingService
from engines import contract
from engines.contract import Voice
from speech.errors import VoiceStoreUnavailable
from tests.helpers.enrolments import CONSENT, enrolment
from tests.helpers.serving import tone
from tests.unit.test_metrics import Kinds
from tracing.allow_list import TAG_SHAPES
from voices import ClipFacts, VoiceRecord, Voices, VoiceSettings
from voices.fits import FitLost, Work

ENGINE = ("simulated", "1")


@pytest.fixture
def store(tmp_path) -> Voices:
    return Voices.open(VoiceSettings(url=str(tmp_path / "voices")))


def enrolled(store: Voices, name: str = "anna", level: float = 0.3, by: str | None = "ab" * 16) -> VoiceRecord:
    clip = tone(level=level)
    facts = ClipFacts(seconds=4.0, sample_rate=24_000, format="wav", bytes=len(clip))
    record, _ = store.create(enrolment(name), clip, facts)
    store.fits.ask(record, ENGINE, by)
    return record


class Service:
    """A replica of fitting-service as Serve would have it, and the spans that it exports.

    Its thread is not nice, unless a test asks for that: beside other tests a nice one waits for its turn.
    """

    def __init__(self, monkeypatch, tmp_path, store: Voices, fit_ms: float = 1, nice: int = 0) -> None:
        replica = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
        node = SimpleNamespace(get_node_id=lambda: "ab" * 28, get_accelerator_ids=dict)
        monkeypatch.setattr(base.serve, "get_replica_context", lambda: replica)
        monkeypatch.setattr(base.ray, "get_runtime_context", lambda: node)
        monkeypatch.setattr(base, "Nodes", lambda: lambda: False)
        monkeypatch.setattr(fitting, "LOOK_S", 0.01)
        monkeypatch.setattr(fitting.serve_log, "attach", lambda: None)  # it is for the whole process
        self.kinds = Kinds()
        monkeypatch.setattr("ray.serve.metrics.Counter", self.kinds.Counter)
        monkeypatch.setattr("ray.serve.metrics.Gauge", self.kinds.Gauge)
        monkeypatch.setattr("ray.serve.metrics.Histogram", self.kinds.Histogram)
        self.replica = FittingService(
            FittingConfig(
                engine="simulated",
                engine_options={"fit_ms": fit_ms},
                voices={"url": str(tmp_path / "voices")},
                nice=nice,
            )
        )
        self.spans: list[dict] = []
        self.replica._reporter.exporter.submit = self.spans.extend
        self.store = store

    def work(self) -> int:
        return asyncio.run(asyncio.wait_for(self.replica.work(), 60))

    def tags(self) -> dict[str, str]:
        [span] = self.spans
        assert (span["name"], span["localEndpoint"]["serviceName"]) == ("FIT_VOICE", "fitting-service")
        assert "parentId" not in span
        for key, value in span["tags"].items():
            assert key in ("error",) or TAG_SHAPES[key].fullmatch(value), f"{key}={value} would not leave"
        return span["tags"]

    def outcomes(self) -> list[str]:
        return [tags["outcome"] for _, tags in self.kinds.seen.get("cosygraph_fits", [])]


@pytest.fixture
def make(monkeypatch, tmp_path, store):
    made: list[Service] = []

    def service(**how) -> Service:
        made.append(Service(monkeypatch, tmp_path, store, **how))
        return made[-1]

    yield service
    for one in made:
        one.replica.arrays.close()


def state(store: Voices, record: VoiceRecord) -> str:
    fit = store.fits.shown([record], ENGINE)[record.id]
    return f"{fit.state} {fit.why}".strip()


def test_a_voice_is_fitted_and_its_trace_says_how(make, store):
    record = enrolled(store)
    service = make()
    assert service.work() == 1 and state(store, record) == "done"
    fitted = store.fits.arrays(store.fits.result(record, ENGINE))
    steered = store.arrays(record.id, ENGINE)
    assert steered is not None, "found in the clip, for want of an ingress, and stored for requests too"
    assert np.allclose(fitted["embedding"], steered["embedding"] + 1)
    assert (
        service.tags().items()
        >= {
            "fit.steps": "10",
            "fit.loss.before": "0.5",
            "fit.loss.after": "0.3",
            "fit.seconds": "0.01",
            "fit.stopped": "all_steps",
            "fit.kept": "true",
            "fit.asked_by": "ab" * 16,
            "model.name": "simulated",
            "audio.duration": "4",
            "sampling.reason": "fit",
            "device": "cpu",
        }.items()
    )
    assert not {"stage", "fit.why", "fit.taken_up_at", "error"} & service.tags().keys()
    assert service.outcomes() == ["done"]
    assert service.kinds.seen["cosygraph_fit_seconds"] == [(0.01, {"outcome": "done"})]
    assert [count for count, _ in service.kinds.seen["cosygraph_fits_pending"]] == [1, 0]
    assert CONSENT not in str(service.spans) and "anna" not in str(service.spans)


def test_a_voice_that_is_no_better_is_reported_with_the_reason(make, store):
    record = enrolled(store, level=0.04)
    service = make()
    service.work()
    assert state(store, record) == "kept_steered it is hardly nearer to the speaker"
    tags = service.tags()
    assert (tags["fit.kept"], tags["fit.why"]) == ("false", "it-is-hardly-nearer-to-the-speaker")
    assert "error" not in tags and service.outcomes() == ["kept_steered"]


def test_reasons_fit_into_a_tag():
    assert joined("Its peaks would be clipped, by 3.2 dB, and it took over noise") == (
        "its-peaks-would-be-clipped-by-3-2-db-and"
    )
    assert joined("") == ""


def test_nothing_to_do_returns_at_once_and_loads_nothing(make):
    service = make()
    assert service.work() == 0 and service.spans == [] and service.replica._worker._fitter is None


def test_calls_share_the_work(make, store):
    for number in range(3):
        enrolled(store, f"name{number}", level=0.3 + number / 10)
    service = make()

    async def calls() -> list[int]:
        return await asyncio.gather(*(service.replica.work() for _ in range(4)))

    assert asyncio.run(calls()) == [3, 3, 3, 3] and len(service.spans) == 3


def priority() -> tuple[int, int]:
    """Return the calling thread's niceness and class."""
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)


def test_the_thread_that_computes_is_nice_and_the_one_that_answers_is_not(make, store, monkeypatch):
    enrolled(store)
    service, seen = make(nice=FittingConfig.model_fields["nice"].default), []
    advance = fit_worker.FitWorker.make
    monkeypatch.setattr(
        service.replica._worker,
        "make",
        lambda *args: seen.append(priority()) or advance(service.replica._worker, *args),
    )
    before = priority()
    service.work()
    assert seen == [(19, os.SCHED_IDLE)] and priority() == before == (before[0], os.SCHED_OTHER)


def test_an_engine_that_fails_fails_the_fit_and_the_next_one_goes_on(make, store, monkeypatch, caplog):
    first, second = enrolled(store), enrolled(store, "bert", level=0.5)
    service = make()
    load = service.replica.engine.load_voice_fitter

    def fail_once(device, threads):
        monkeypatch.setattr(service.replica.engine, "load_voice_fitter", load)
        raise RuntimeError(f"no fitter for {CONSENT}")

    monkeypatch.setattr(service.replica.engine, "load_voice_fitter", fail_once)
    assert service.work() == 2
    assert state(store, first) == f"failed {fitting.WHY_FAILED}" and state(store, second) == "done"
    failed = service.spans[0]["tags"]
    assert failed["error.type"] == "internal" and failed["error.service"] == "fitting-service"
    assert failed["fit.stopped"] == "failed" and service.outcomes() == ["failed", "done"]
    assert CONSENT not in caplog.text, "an engine's message may quote anything"


def test_a_voice_that_can_not_be_found_in_its_clip_says_why(make, store):
    clip = b"no sound at all" * 100
    record, _ = store.create(
        enrolment(), clip, ClipFacts(seconds=4.0, sample_rate=24_000, format="wav", bytes=len(clip))
    )
    service = make()
    service.work()
    assert state(store, record).startswith("failed The reference clip can't be read as audio")
    assert service.tags()["error.type"] == "input_validation"


def test_a_voice_deleted_under_way_ends_its_fit_without_an_error(make, store, tmp_path):
    record = enrolled(store)
    service = make(fit_ms=50)

    async def scenario() -> None:
        call = asyncio.create_task(service.replica.work())
        while not state(store, record).startswith("running"):
            await asyncio.sleep(0.01)
        store.delete(record)
        await asyncio.wait_for(call, 30)

    asyncio.run(scenario())
    assert service.tags()["fit.stopped"] == "lost" and "error" not in service.tags()
    assert service.outcomes() == ["lost"] and not list((tmp_path / "voices").glob("fits/*"))


def test_a_store_that_fails_interrupts_the_fit_and_it_goes_on_afterwards(make, store, monkeypatch):
    record = enrolled(store)
    service = make()
    monkeypatch.setattr("voices.fits.CLAIM_S", 0.2)
    keep, times = service.replica._fits.keep, []

    def fail_once(*args):
        times.append(args)
        if len(times) == 4:
            raise VoiceStoreUnavailable("the disk is full")
        keep(*args)

    monkeypatch.setattr(service.replica._fits, "keep", fail_once)
    service.work()
    assert state(store, record) == "done" and service.outcomes() == ["interrupted", "done"]
    assert service.spans[0]["tags"]["error.type"] == "voice_store_unavailable"


def taken(store: Voices, worker: str) -> Work:
    work = store.fits.take(ENGINE, worker)
    assert work is not None
    return work


def worker(store: Voices, clock, fit_ms: float = 0.01) -> FitWorker:
    return FitWorker(contract.create("simulated", {"fit_ms": fit_ms}), store, clock=clock)


class Ticks:
    """A clock that goes on by `by` seconds with each look at it."""

    def __init__(self, by: float) -> None:
        self.by, self.now = by, 0.0

    def __call__(self) -> float:
        self.now += self.by
        return self.now


def test_a_fit_is_taken_up_where_its_state_was_kept(store, monkeypatch):
    """The claim of a service that ended is waited for; here it is over at once."""
    record, now = enrolled(store), time.time()
    monkeypatch.setattr(store.fits, "_now", lambda: now)
    first, steps = taken(store, "one"), []

    def ends_after_six() -> bool:
        steps.append(store.fits.shown([record], ENGINE)[record.id].step)
        return steps[-1] == 6

    with pytest.raises(FitLost):
        worker(store, Ticks(3.0)).make(first, ends_after_six)
    kept = store.fits.state(first)
    assert kept is not None and 4 <= kept["step"] <= 6, "kept every five seconds"
    now += 60
    made = worker(store, time.monotonic).make(taken(store, "two"))
    assert made.taken_up_at == kept["step"] and made.outcome.steps == 10


def test_a_state_of_another_version_is_begun_anew(store, caplog):
    enrolled(store)
    work = taken(store, "one")
    store.fits.keep(work, 5, 10, {"other": np.zeros(1)})
    made = worker(store, time.monotonic).make(work)
    assert made.taken_up_at == 0 and made.outcome.kept and "begun anew" in caplog.text


def test_a_clip_that_is_not_stored_is_fitted_from_what_the_ingress_found(make, store):
    hold = store.fits.ask_for_clip(b"a clip", {"embedding": np.full(192, 3, np.float32)}, ENGINE, "cd" * 16, 60)
    service = make()
    assert service.work() == 1
    fit = store.fits.held(hold)
    assert store.fits.arrays(fit.result)["embedding"][0] == 4
    assert service.tags()["fit.asked_by"] == "cd" * 16 and "audio.duration" not in service.tags()


def test_a_fit_gets_the_stored_clip_and_only_reads_it_when_it_wants_to(store, monkeypatch):
    record = enrolled(store)
    store.keep_arrays(record.id, ENGINE, {"embedding": np.full(192, 4, np.float32)})
    maker, clips, read = worker(store, time.monotonic), [], []
    fitter, clip_of = contract.create("simulated", {"fit_ms": 0.01}).load_voice_fitter(), store.clip
    begin = fitter.begin

    def watched(voice, state=None, clip=None):
        clips.append(clip)
        return begin(voice, state, clip)

    monkeypatch.setattr(fitter, "begin", watched)
    monkeypatch.setattr(maker, "_fitter", fitter)
    monkeypatch.setattr(store, "clip", lambda name: read.append(name) or clip_of(name))
    maker.make(taken(store, "one"))
    assert not read, "reading and resampling a clip costs time"
    reference = clips[0]()
    assert read == [record.id] and reference.views[16_000].ndim == 1
    store.fits.ask_for_clip(b"a clip", {"embedding": np.full(192, 3, np.float32)}, ENGINE, "cd" * 16, 60)
    maker.make(taken(store, "two"))
    assert clips[1] is None, "a request's clip is not stored"


def test_what_embedding_service_found_is_used(store):
    record = enrolled(store)
    store.keep_arrays(record.id, ENGINE, {"embedding": np.full(192, 4, np.float32)})
    made = worker(store, time.monotonic).make(taken(store, "one"))
    assert isinstance(made.outcome.voice, Voice) and made.outcome.voice.arrays["embedding"][0] == 5


@pytest.mark.parametrize(
    "config, runs",
    [
        ({"engine_options": {"fit_ms": 1}, "voices": {"url": "/voices"}}, True),
        ({"engine_options": {"fit_ms": 1}, "voices": {"url": "/voices"}, "fitting": {"enabled": False}}, False),
        ({"engine_options": {"fit_ms": 1}, "voices": {"url": "memory://voices"}}, False),
        ({"engine_options": {"fit_ms": 1}}, False),
        ({"voices": {"url": "/voices"}}, False),
    ],
)
def test_it_runs_where_the_engine_fits_voices_and_processes_share_a_store(config, runs):
    found = GraphConfig(engine="simulated", **config).fits()
    assert (found is not None) is runs
    if found is not None:
        assert (found.voices.url, found.engine_options, found.threads, found.nice) == ("/voices", {"fit_ms": 1}, 1, 19)
