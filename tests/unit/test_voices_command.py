"""`python -m cluster voices`: the stored voices and their fits, against a stand-in of the API."""

from __future__ import annotations

import pytest

from cluster import cli, say
from cluster.voices_command import fit_in_words


@pytest.fixture
def voices(api, tmp_path, capsys, monkeypatch):
    """Runs the command; (exit status, what it printed, its errors)."""
    monkeypatch.delenv(say.KEY_VARIABLE, raising=False)

    def run(*options):
        code = cli.main(["voices", "--run-dir", str(tmp_path), "--url", api.url, *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def fit(state: str, **more) -> dict:
    return {"state": state, "step": 0, "steps": 0, "why": ""} | more


def test_voices_are_listed_with_their_fits(voices, api):
    assert voices() == (0, "no voice is stored\n", "")
    api.voices += [
        {"id": "voice_0", "name": "anna", "dialect": "en-US", "fit": fit("running", step=3, steps=8)},
        {"id": "voice_1", "name": "bertram", "dialect": "zh-CN", "fit": None},
    ]
    assert voices()[1].splitlines() == [
        "anna     en-US       fit running, step 3 of 8",
        "bertram  zh-CN",
    ]


def test_a_fit_is_asked_for_by_name(voices, api):
    api.voices.append({"id": "voice_0", "name": "anna", "dialect": "en-US", "fit": fit("failed", why="no")})
    code, out, _ = voices("--fit", "anna")
    assert code == 0 and out == "anna  en-US       fit queued\n" and api.voices[0]["fit"]["state"] == "queued"


def test_an_error_of_the_api_is_told(voices, api):
    api.key = "a-key"
    code, _, error = voices()
    assert code == 1 and say.KEY_VARIABLE in error


@pytest.mark.parametrize(
    "state, said",
    [
        (None, ""),
        (fit("queued"), "fit queued"),
        (fit("running"), "fit running"),
        (fit("done", step=8, steps=8), "fitted"),
        (fit("kept_steered", why="it is hoarse"), "kept steered: it is hoarse"),
        (fit("failed", why="no"), "fit failed: no"),
        (fit("of a newer release"), "of a newer release"),
    ],
)
def test_each_state_has_its_words(state, said):
    assert fit_in_words({"fit": state}) == said
