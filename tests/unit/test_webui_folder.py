"""The web page's folder: gone with its process, however that ends, and never anybody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from webui import folder

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import sys
from webui import folder
(folder.own() / "clip.wav").write_bytes(b"a clip")
print(folder.own(), flush=True)
sys.stdin.readline()
folder.tidy()
"""


class Owner:
    """A process that has a folder below `place`."""

    def __init__(self, place: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.folder = Path(self.process.stdout.readline().strip())

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(10)


@pytest.fixture
def owner(tmp_path):
    found = Owner(tmp_path)
    yield found
    found.end()


def test_it_is_ours_alone_and_gone_with_an_orderly_end(owner):
    assert owner.folder.stat().st_mode & 0o777 == 0o700
    owner.process.stdin.write("\n")
    owner.process.stdin.flush()
    assert owner.process.wait(10) == 0 and not owner.folder.exists()


def test_the_next_process_removes_a_killed_ones_and_nobody_elses(owner, tmp_path):
    lives = Owner(tmp_path)
    try:
        owner.end()
        assert (owner.folder / "clip.wav").exists(), "or there is nothing to remove"
        folder.sweep(tmp_path)
        assert not owner.folder.exists() and (lives.folder / "clip.wav").exists()
        third = Owner(tmp_path)
        third.end()
        lives.end()
        fourth = Owner(tmp_path)  # by itself, when it makes its own
        fourth.end()
        assert list(tmp_path.iterdir()) == [fourth.folder]
    finally:
        lives.end()


def test_what_only_has_such_a_name_stays(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (tmp_path / f"{folder.PREFIX}link").symlink_to(elsewhere)
    (tmp_path / f"{folder.PREFIX}file").touch()
    (tmp_path / "another-folder").mkdir()
    folder.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4 and (elsewhere / "kept").exists()


def test_another_users_stays(tmp_path, monkeypatch):
    theirs = tmp_path / f"{folder.PREFIX}theirs"
    theirs.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    folder.sweep(tmp_path)
    assert theirs.exists()
    monkeypatch.undo()
    folder.sweep(tmp_path)
    assert not theirs.exists()
