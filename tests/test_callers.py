"""Who is trusted, and what a key file may look like."""

import os

import pytest

from deployments.callers import Caller, Callers, main

LOCAL, REMOTE = "127.0.0.1", "192.0.2.7"


@pytest.mark.parametrize("headers, client, trusted", [
    ({}, LOCAL, True),
    ({}, "::1", True),
    ({}, REMOTE, False),
    ({}, None, False),
    ({}, "not an address", False),
    ({"x-forwarded-for": LOCAL}, LOCAL, False),
    ({"forwarded": "for=127.0.0.1"}, LOCAL, False),
    ({"x-real-ip": LOCAL}, LOCAL, False),
])
def test_without_a_key_file_this_machine_is_trusted_and_nobody_behind_a_proxy(headers, client, trusted):
    assert Callers(None).identify(headers, client) == Caller(trusted)


@pytest.fixture
def keys(tmp_path, capsys):
    """(path of a key file with one entry, its key)"""
    assert main(["load-test"]) == 0
    first, *entry = capsys.readouterr().out.splitlines(keepends=True)
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n" + "".join(entry))
    return path, first.rsplit(" ", 1)[1].strip()


def test_with_a_key_file_only_its_keys_are_trusted(keys):
    path, key = keys
    callers = Callers(str(path))
    assert callers.identify({"authorization": f"Bearer {key}"}, REMOTE) == Caller(True, "load-test", "load-test")
    assert callers.identify({"x-api-key": key}, REMOTE) == Caller(True, "load-test", "load-test")
    for headers in ({}, {"x-api-key": key + "x"}, {"authorization": f"Basic {key}"}, {"authorization": "Bearer"}):
        assert callers.identify(headers, LOCAL) == Caller(), "loopback doesn't help where there is a key file"
    assert key not in path.read_text()


def test_a_user_counts_from_a_trusted_caller_alone(keys):
    path, key = keys
    callers = Callers(str(path))
    trusted = callers.identify({"x-api-key": key, "x-user-id": " alice "}, REMOTE)
    assert trusted.user == "alice" and trusted.principals == {"load-test", "alice"}
    assert callers.identify({"x-user-id": "alice"}, REMOTE).principals == frozenset()
    assert len(callers.identify({"x-api-key": key, "x-user-id": "a" * 9999}, REMOTE).user) == 256


def test_the_file_may_change_while_it_is_in_use_and_a_damaged_one_changes_nothing(keys, monkeypatch, caplog):
    path, key = keys
    monkeypatch.setattr("deployments.callers._RELOAD_EVERY_S", 0)
    callers = Callers(str(path))
    good = path.read_text()

    def write(text, stamp):
        path.write_text(text)
        os.utime(path, ns=(stamp, stamp))
    write("keys: [{name: broken}]", 10**18)
    assert callers.identify({"x-api-key": key}, REMOTE).trusted and "stay in force" in caplog.text
    write("keys: []", 2 * 10**18)
    assert not callers.identify({"x-api-key": key}, REMOTE).trusted
    write(good, 3 * 10**18)
    assert callers.identify({"x-api-key": key}, REMOTE).trusted
    path.unlink()
    assert callers.identify({"x-api-key": key}, REMOTE).trusted


@pytest.mark.parametrize("text", ["keys: [{name: UPPER, sha256: x}]", "- a list", "keys: {", "other: []"])
def test_a_wrong_file_at_the_start_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="keys.yaml is no key file"):
        Callers(str(path))
    with pytest.raises(ValueError, match="can't be read.*python -m deployments.callers"):
        Callers(str(tmp_path / "absent.yaml"))


def test_the_command_refuses_what_is_no_name(capsys):
    assert main([]) == 2 and main(["With Blanks"]) == 2
    assert "no key name" in capsys.readouterr().err
