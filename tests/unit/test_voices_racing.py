"""Several processes on one folder at once, as several ingress replicas are: real processes, some of them killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest

from speech.errors import SpeechError, VoiceNotFound
from tests.helpers.enrolments import clip_of, store, voices_in
from voices import Voices, VoiceSettings
from voices.place import open_place

PROCESSES = 4
ENGINE = ("simulated", "1")


#: Imports once, in a process that has nothing else in it, and forks that.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["voices"])


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(PROCESSES, mp_context=CONTEXT) as pool:
        yield pool


def race(processes, work, folder: Path, *args) -> list:
    """What `work(voices, number, *args)` returns in each process; all begin when the last one is there."""
    runs = [processes.submit(_run, work, folder, number, *args) for number in range(PROCESSES)]
    return [result for run in as_completed(runs, timeout=60) for result in run.result()]


def _run(work, folder: Path, number: int, *args) -> list:
    wait = folder.with_suffix(".waiting")
    wait.mkdir(exist_ok=True)
    (wait / str(number)).touch()
    while len(list(wait.iterdir())) < PROCESSES:
        time.sleep(0.001)
    return work(voices_in(folder, **dict(args)), number)


def attempt(voices: Voices, name: str, clip: str) -> str:
    try:
        return "created" if store(voices, name, clip)[1] else "same"
    except SpeechError as error:
        return error.code


def whole(folder: Path) -> list:
    """The records; every one has its clip, and there is nothing else."""
    voices = voices_in(folder)
    records = voices.all()
    for record in records:
        assert len(voices.clip(record.id)) == record.clip.bytes
    assert {path.name for path in (folder / "voices").iterdir()} == {record.folder for record in records}
    assert sum(1 for path in (folder / "catalog").iterdir() if path.stat().st_size) == 1
    assert not list((folder / "tmp").iterdir())
    return records


def voices_of_its_own(voices, number):
    return [attempt(voices, f"{number}-{n}", f"clip {number} {n}") for n in range(6)]


def test_nobody_loses_what_another_stores(processes, tmp_path):
    assert race(processes, voices_of_its_own, tmp_path / "v") == ["created"] * 6 * PROCESSES
    assert len(whole(tmp_path / "v")) == 6 * PROCESSES


def the_same_names(voices, number):
    return [f"{n} {attempt(voices, f'name{n}', f'clip {number} {n}')}" for n in range(6)]


def test_a_name_is_given_once(processes, tmp_path):
    results = Counter(race(processes, the_same_names, tmp_path / "v"))
    assert results == {
        f"{n} {outcome}": count
        for n in range(6)
        for outcome, count in (("created", 1), ("voice_name_taken", PROCESSES - 1))
    }
    assert len(whole(tmp_path / "v")) == 6


def the_same_voices(voices, number):
    return [f"{n} {attempt(voices, f'name{n}', f'clip {n}')}" for n in range(6)]


def test_a_voice_is_created_once(processes, tmp_path):
    results = Counter(race(processes, the_same_voices, tmp_path / "v"))
    assert results == {
        f"{n} {outcome}": count for n in range(6) for outcome, count in (("created", 1), ("same", PROCESSES - 1))
    }
    assert len(whole(tmp_path / "v")) == 6


def the_same_clips(voices, number):
    return [f"{n} {attempt(voices, f'name{number}-{n}', f'clip {n}')}" for n in range(6)]


def test_a_clip_has_one_name(processes, tmp_path):
    results = Counter(race(processes, the_same_clips, tmp_path / "v"))
    assert results == {
        f"{n} {outcome}": count
        for n in range(6)
        for outcome, count in (("created", 1), ("voice_exists", PROCESSES - 1))
    }
    assert len(whole(tmp_path / "v")) == 6


def test_limits_hold_exactly_over_all_processes(processes, tmp_path):
    results = Counter(race(processes, voices_of_its_own, tmp_path / "v", ("max_voices", 7)))
    assert results == {"created": 7, "voices_full": 6 * PROCESSES - 7}
    assert len(whole(tmp_path / "v")) == 7
    results = Counter(race(processes, voices_of_its_own, tmp_path / "w", ("max_bytes", 50_000)))  # 8,000 each
    assert results == {"created": 6, "voices_full": 6 * PROCESSES - 6}


def come_and_go(voices, number):
    """Two processes store and delete the same few voices, two look at them all the time."""
    seen = []
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        name = f"name{random.randrange(3)}"
        try:
            record = voices.find(name)
            if number % 2:
                voices.delete(record)
                seen.append("deleted")
                continue
            voices.keep_arrays(record.id, ENGINE, {"x": np.full(1000, len(record.name))})
            assert voices.clip(record.id) == clip_of(f"clip of {name}")
            assert (found := voices.arrays(record.id, ENGINE)) is None or found["x"].sum() == 5000
            seen.append("read")
        except VoiceNotFound:
            if number % 2:
                seen.append("created" if store(voices, name, f"clip of {name}")[1] else "same")
    return [*seen, *("damaged" for name in ("arrays_damaged", "clips_damaged") if voices.counters()[name])]


def test_nobody_ever_sees_half_a_voice(processes, tmp_path):
    results = Counter(race(processes, come_and_go, tmp_path / "v"))
    assert set(results) <= {"created", "same", "deleted", "read"}
    assert results["created"] > 5 and results["deleted"] > 5 and results["read"] > 5
    assert len(whole(tmp_path / "v")) == results["created"] - results["deleted"]


def churn(folder: Path) -> None:
    """Stores and deletes until it is killed."""
    voices = voices_in(folder)
    while True:
        name = f"name{random.randrange(3)}"
        try:
            voices.delete(voices.find(name))
        except VoiceNotFound:
            attempt(voices, name, f"clip of {name}")


def test_processes_killed_at_any_moment_block_nothing(tmp_path):
    folder = tmp_path / "v"
    running = [CONTEXT.Process(target=churn, args=(folder,)) for _ in range(PROCESSES)]
    for process in running:
        process.start()
    while not (folder / "catalog").is_dir():
        time.sleep(0.01)
    for process in running:
        time.sleep(random.uniform(0.1, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    settings = VoiceSettings(url=str(folder))
    later = Voices(open_place(settings), settings, now=lambda: time.time() + 7200)
    later.sweep()
    for record in whole(folder):
        assert later.clip(record.id) == clip_of(f"clip of {record.name}")
        later.delete(record)
    for n in range(3):
        assert attempt(later, f"name{n}", f"another clip {n}") == "created"
    assert len(whole(folder)) == 3


@pytest.mark.parametrize("url", ["folder", "memory://racing/voices"])
def test_threads_of_one_process(tmp_path, url):
    """Each with a store of its own, as two replicas, and through one."""
    settings = VoiceSettings(url=str(tmp_path) if url == "folder" else url)
    shared = Voices.open(settings)
    stores = [shared, shared, Voices.open(settings), Voices.open(settings)]
    with ThreadPoolExecutor(4) as pool:
        results = Counter(result for outcome in pool.map(the_same_names, stores, range(4)) for result in outcome)
    assert all(count == 1 for result, count in results.items() if result.endswith("created"))
    assert sum(results.values()) == 24 and len(shared.all()) == 6
