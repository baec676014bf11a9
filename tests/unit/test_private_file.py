"""Files with secrets: for this account alone, and whole."""

import os
import stat
from pathlib import Path

import pytest

from cluster import private_file


def test_nobody_else_may_read_it_whoever_could_read_what_was_there(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    private_file.write(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]


def test_what_was_there_stays_where_it_can_not_be_written(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    private_file.write(path, "old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        private_file.write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    private_file.write(path, "newer")
    assert path.read_text() == "newer", "what was left of the attempt is in nobody's way"
