"""The bench of fits: what it keeps of each speaker, and what it makes of that."""

from __future__ import annotations

import os

import numpy as np
import pytest

from bench import fitting
from bench.measuring.speakers import JUDGES
from engines.contract import Voice


def row(name: str, speaker: int, nearer: float, kept: bool = True) -> dict:
    """A speaker whose recording is a unit vector of its own, and whose fitted voice turns towards it."""
    own, other = np.eye(4)[speaker], np.eye(4)[3]

    def turned(share: float) -> list[float]:
        return (np.sqrt(share) * own + np.sqrt(1 - share) * other).tolist()

    def said(share: float, opinion: float) -> dict:
        made = {judge: [turned(share)] * 2 for judge in JUDGES}
        return {
            "cpu_s": 2.0,
            "audio_s": 4.0,
            "errors": 1,
            "words": 20,
            "dnsmos": [opinion, opinion + 0.2],
            "made": made,
        }

    recording = {judge: {"whole": own.tolist(), "first": turned(0.81), "second": own.tolist()} for judge in JUDGES}
    changes = {"similarity": 0.1}
    fit = {
        "kept": kept,
        "why": "" if kept else "it is dull",
        "steps": 6,
        "wall_s": 12.0,
        "cpu_s": 20.0,
        "memory_mb": 900,
    }
    return {
        "name": name,
        "fit": {**fit, "changes": changes},
        "recording": recording,
        "against": "whole",
        "steered": said(0.25, 3.0),
        "fitted": said(nearer, 3.1),
    }


def test_the_normalised_score_is_0_for_a_stranger_and_1_for_the_other_half():
    report = fitting.summary([row("a", 0, 0.81), row("b", 1, 0.81)])
    for judge in JUDGES:
        assert report["halves"][f"{judge} own"] == pytest.approx(0.9)
        assert report["halves"][f"{judge} other"] == pytest.approx(0.0)
        assert report["speech"]["steered"][f"{judge} normalised"] == pytest.approx(0.5 / 0.9)
        assert report["speech"]["fitted"][f"{judge} normalised"] == pytest.approx(1.0)
        assert report["speech"]["fitted"][f"{judge} nearest of 2"] == 1.0
    assert report["speech"]["fitted"]["WER"] == pytest.approx(0.05)
    assert report["speech"]["fitted"]["DNSMOS worst"] == pytest.approx(3.1)
    assert report["speech"]["fitted"]["CPU seconds of a second of speech"] == pytest.approx(0.5)


def test_a_fit_that_is_not_kept_is_named_and_its_fall_does_not_count():
    report = fitting.summary([row("a", 0, 0.64), row("b", 1, 0.16, kept=False)])
    assert report["fits"]["kept"] == 1 and report["fits"]["not kept"] == {"b": "it is dull"}
    assert report["fits"]["least change of CAM++"] == pytest.approx(0.3)
    assert report["fits"]["share of kept voices with more VoiceFilter"] == 1.0


def test_two_runs_share_the_speakers_and_one_that_was_cut_off_is_taken_up(tmp_path):
    kept = fitting.Kept(tmp_path / "run")
    assert kept.begin("anna") and not kept.begin("anna"), "another run works on her"
    old = kept.folder / "anna.begun"
    os.utime(old, (0, 0))
    assert kept.begin("anna"), "that run was cut off"
    voices = [Voice({"style_offset": np.full(2, number, np.float32)}) for number in (1, 2)]
    kept.write("anna", {"name": "anna"}, *voices)
    assert not kept.begin("anna") and kept.read("anna") == {"name": "anna"} and kept.read("ben") is None
    assert kept.voice("anna", "fitted").arrays["style_offset"][0] == 2
    assert not old.exists()


def test_a_half_is_half_and_the_spoilt_are_as_loud_as_before():
    samples = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    assert len(fitting.spoilt(samples, 16_000, "half")) == 8_000
    noisy, room = (fitting.spoilt(samples, 16_000, kind) for kind in ("noise", "room"))
    assert np.square(noisy - samples).mean() == pytest.approx(np.square(samples).mean() / 10**1.5, rel=0.05)
    assert np.square(room).mean() == pytest.approx(np.square(samples).mean(), rel=0.01)
    assert fitting.spoilt(samples, 16_000, "clean") is samples
