"""The key that the launcher makes for the watchdog's canary."""

from __future__ import annotations

import pytest

from access.key_editor import KeyEditor
from access.keys import digest
from cluster import watchdog_key
from cluster.cli_error import CliError
from cluster.ray_head import ROOT
from cluster.stack import Options, Stack


def test_it_is_made_once_is_its_owners_alone_and_is_made_anew_where_it_no_longer_works(tmp_path):
    keys, said = tmp_path / "keys.yaml", []
    theirs = KeyEditor(keys).add("alice")
    path = watchdog_key.ready(tmp_path, keys, said.append)
    first = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600 and first not in keys.read_text() and not said
    entries = {one.name: one for one in KeyEditor(keys).entries().keys}
    assert entries["watchdog-canary"].sha256 == (digest(first),) and entries["alice"].sha256 == (digest(theirs),)
    path.chmod(0o644)
    assert watchdog_key.ready(tmp_path, keys, said.append).read_text().strip() == first
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    second = watchdog_key.ready(tmp_path, keys, said.append).read_text().strip()
    [entry] = [one for one in KeyEditor(keys).entries().keys if one.name == "watchdog-canary"]
    assert second != first and entry.sha256 == (digest(second),), "nobody has the first one any more"


def test_a_key_file_that_somebody_else_keeps_is_not_written_to(tmp_path):
    (tmp_path / "etc").mkdir()
    keys, said = tmp_path / "etc" / "keys.yaml", []
    KeyEditor(keys).add("alice")
    before = keys.read_bytes()
    assert watchdog_key.ready(tmp_path, keys, said.append) is None
    assert keys.read_bytes() == before and "canary_key_file" in said[0] and str(keys) in said[0]


def given(tmp_path, **options) -> dict:
    stack = Stack(tmp_path, print)
    application = stack._application(Options(run_dir=tmp_path, host="0.0.0.0", **options))
    assert application.check_access(print)
    stack._give_canary_key(application)
    return next((one["args"] for one in application.config["applications"] if one["name"] == "watchdog"), {})


def test_the_launcher_names_it_to_the_watchdog_where_keys_are_required(tmp_path):
    KeyEditor(tmp_path / "keys.yaml").add("alice")
    assert given(tmp_path)["canary_key_file"] == str(tmp_path / "watchdog.key")
    assert (tmp_path / "watchdog.key").exists()


def test_none_is_made_without_a_watchdog_or_where_the_config_names_one(tmp_path):
    KeyEditor(tmp_path / "keys.yaml").add("alice")
    assert given(tmp_path, watchdog=False) == {}
    config = tmp_path / "serve.yaml"
    config.write_text(
        (ROOT / "cluster" / "serve.cpu.yaml")
        .read_text()
        .replace("canary_every_s: 60", "canary_every_s: 60, canary_key_file: /etc/mine")
    )
    assert given(tmp_path, config=config)["canary_key_file"] == "/etc/mine"
    assert not (tmp_path / "watchdog.key").exists()


def test_a_damaged_key_file_is_a_problem_with_a_remedy(tmp_path):
    (tmp_path / "keys.yaml").write_text("keys: [")
    with pytest.raises(ValueError, match="keys.yaml"):
        watchdog_key.ready(tmp_path, tmp_path / "keys.yaml", print)
    (tmp_path / "keys.yaml").unlink()
    KeyEditor(tmp_path / "keys.yaml").add("alice")
    stack = Stack(tmp_path, print)
    application = stack._application(Options(run_dir=tmp_path, host="0.0.0.0"))
    (tmp_path / "keys.yaml").write_text("keys: [")
    with pytest.raises(CliError, match="--no-watchdog"):
        stack._give_canary_key(application)
