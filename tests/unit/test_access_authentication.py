"""Trusted callers, and the rules of a key file."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from access.authentication import Authenticator, Principal
from access.keys import digest, parse
from access.settings import CallerLimits
from speech.dialects import DIALECTS

LOCAL, REMOTE = "127.0.0.1", "192.0.2.7"
KEY, OTHER = "cosygraph_one", "cosygraph_two"
A, B = digest("a"), digest("b")


@pytest.mark.parametrize(
    "headers, client, trusted",
    [
        ({}, LOCAL, True),
        ({}, "::1", True),
        ({}, REMOTE, False),
        ({}, None, False),
        ({}, "not an address", False),
        ({"x-forwarded-for": LOCAL}, LOCAL, False),
        ({"forwarded": "for=127.0.0.1"}, LOCAL, False),
        ({"x-real-ip": LOCAL}, LOCAL, False),
    ],
)
def test_without_a_key_file_this_machine_is_trusted_and_nobody_behind_a_proxy(headers, client, trusted):
    found = Authenticator(None).identify(headers, client)
    assert (found.trusted, found.key, found.user, found.refused) == (trusted, None, None, None)


@pytest.fixture
def path(tmp_path) -> Path:
    """A key file of the older format: a name and a hash."""
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n  - name: load-test\n    sha256: {digest(KEY)}\n")
    return path


def test_with_a_key_file_only_its_keys_are_trusted(path):
    callers = Authenticator(str(path))
    for headers in ({"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY} "}, {"x-api-key": KEY}):
        found = callers.identify(headers, REMOTE)
        assert found == Principal(True, "load-test", "load-test", frozenset({"synthesize"}), address=REMOTE)
    for headers in ({"x-api-key": KEY + "x"}, {"authorization": f"Bearer {KEY[:-1]}"}, {"x-api-key": digest(KEY)}):
        assert callers.identify(headers, LOCAL) == Principal(refused="unknown", address=LOCAL)
    for headers in ({}, {"authorization": f"Basic {KEY}"}, {"authorization": "Bearer"}, {"x-api-key": ""}):
        assert callers.identify(headers, LOCAL) == Principal(address=LOCAL), (
            "loopback doesn't help where there are keys"
        )


def test_a_user_counts_from_a_trusted_caller_alone(path):
    callers = Authenticator(str(path))
    trusted = callers.identify({"x-api-key": KEY, "x-user-id": " alice "}, REMOTE)
    assert trusted.user == "alice" and trusted.principals == {"load-test", "alice"}
    assert callers.identify({"x-user-id": "alice"}, REMOTE).principals == frozenset()
    assert len(callers.identify({"x-api-key": KEY, "x-user-id": "a" * 9999}, REMOTE).user) == 256


def test_an_entry_says_all_about_its_caller(tmp_path):
    path = tmp_path / "keys.yaml"
    path.write_text(f"""
keys:
  - name: web
    sha256: [{digest(KEY)}, {digest(OTHER)}]
    roles: [voices, admin]
    owner: Alice's shop
    dialect: zh_sichuan
    limits: {{requests_per_minute: 60, concurrent: 4}}
    trusted: false
""")
    callers = Authenticator(str(path), DIALECTS)
    found = callers.identify({"x-api-key": KEY, "x-user-id": "mallory"}, REMOTE)
    assert found == callers.identify({"x-api-key": OTHER}, REMOTE), "two keys of one name while they are rotated"
    assert found == Principal(
        False,
        "web",
        "Alice's shop",
        frozenset({"voices", "admin"}),
        CallerLimits(requests_per_minute=60, concurrent=4),
        "zh-Sichuan",
        address=REMOTE,
    )
    assert callers.known == 1


@pytest.mark.parametrize(
    "expires, now, good",
    [
        ("2026-11-25", "2026-11-25T23:59:59", True),
        ("2026-11-25", "2026-11-26T00:00:00", False),
        ("2026-11-25 12:00:00", "2026-11-25T11:59:59", True),
        ("2026-11-25 12:00:00", "2026-11-25T12:00:00", False),
        ("2026-11-25T12:00:00+02:00", "2026-11-25T10:30:00", False),
        ("9999-12-31", "2026-11-25T00:00:00", True),
    ],
)
def test_a_key_ends_when_its_entry_says_so(path, expires, now, good):
    path.write_text(path.read_text() + f"    expires: {expires}\n")
    callers = Authenticator(str(path), now=lambda: datetime.fromisoformat(now).replace(tzinfo=UTC))
    found = callers.identify({"x-api-key": KEY}, LOCAL)
    expected = ("load-test", True, None) if good else (None, False, "expired")
    assert (found.key, found.trusted, found.refused) == expected


def test_the_file_may_change_while_it_is_in_use_and_a_damaged_one_changes_nothing(path, monkeypatch, caplog):
    monkeypatch.setattr("access.authentication._CHECK_EVERY_S", 0)
    callers = Authenticator(str(path))
    good = path.read_text()

    def known(text: str | None) -> bool:
        path.unlink() if text is None else path.write_text(text)
        return callers.identify({"x-api-key": KEY}, REMOTE).key is not None

    assert known("keys: [{name: broken}]") and "stay in force" in caplog.text
    caplog.clear()
    assert callers.identify({"x-api-key": KEY}, REMOTE).trusted and not caplog.text, "said once"
    assert not known("keys: []")
    assert known(good)
    assert known(None) and "can't be read" in caplog.text
    assert not known(good.replace(digest(KEY), digest(OTHER)))
    assert callers.identify({"x-api-key": OTHER}, REMOTE).key == "load-test"


@pytest.mark.parametrize("damage", ["keys: [{name: a, expires: 2026-02-30}]", "[" * 5000])
def test_what_yaml_itself_stumbles_over_ends_no_request(path, monkeypatch, caplog, damage):
    monkeypatch.setattr("access.authentication._CHECK_EVERY_S", 0)
    callers = Authenticator(str(path))
    path.write_text(damage)
    assert callers.identify({"x-api-key": KEY}, REMOTE).key == "load-test" and "keys.yaml is no key file" in caplog.text


def test_no_request_waits_while_a_file_with_many_keys_is_read(path, monkeypatch):
    monkeypatch.setattr("access.authentication._CHECK_EVERY_S", 0)
    callers, entry = Authenticator(str(path)), path.read_text()
    others = "".join(f"  - {{name: other-{n}, sha256: {n:063x}a}}\n" for n in range(1000))
    path.write_text(entry.replace("load-test", "renamed") + others)

    def name() -> str | None:
        return callers.identify({"x-api-key": KEY}, REMOTE).key

    start = time.thread_time()
    assert name() == "load-test" and time.thread_time() - start < 0.1
    path.write_text("keys: []")  # in the middle of it: the last change counts
    while name() is not None:
        assert time.thread_time() - start < 30
        time.sleep(0.01)
    assert callers.known == 0


def test_a_changed_file_is_not_looked_at_for_every_request(path, monkeypatch):
    clock = iter([0.0, 0.2, 0.6, 0.6])
    monkeypatch.setattr("access.authentication.time.monotonic", lambda: next(clock))
    callers = Authenticator(str(path))
    path.write_text("keys: []")
    assert callers.identify({"x-api-key": KEY}, REMOTE).trusted
    assert not callers.identify({"x-api-key": KEY}, REMOTE).trusted, "half a second later it is"


@pytest.mark.parametrize(
    "text, says",
    [
        ("keys: [{name: UPPER, sha256: x}]", "keys.0.name"),
        (f"keys: [{{name: a, sha256: SECRET{A[6:]}}}]", "keys.0.sha256"),
        (f"keys: [{{name: a, sha256: {A}}}, {{name: b, sha256: {B}, roles: [SECRET]}}]", "keys.1.roles"),
        (f"keys: [{{name: a, sha256: {A}}}, {{name: a, sha256: {B}}}]", "the same name is there twice"),
        (f"keys: [{{name: a, sha256: {A}}}, {{name: b, sha256: {A}}}]", "the same sha256 is there twice"),
        (f"keys: [{{name: a, sha256: {A}, limits: {{burst: 3}}}}]", "burst has no effect without"),
        (f"keys: [{{name: a, sha256: {A}, rolls: [admin]}}]", "did you mean 'roles'"),
        (f"keys: [{{name: a, sha256: {A}, dialect: SECRET}}]", "the dialect of the key a is not known"),
        (f"keys: [{{name: a, sha256: {A}, expires: SECRET}}]", "keys.0.expires"),
        ("keys: [{name: a, sha256: []}]", "keys.0.sha256"),
        ("- a list", "no list `keys`"),
        ("keys: {", "no YAML at line"),
        (f"keys: [{{name: a, sha256: {A}, expires: 2026-02-30}}]", "does not exist"),
        ("[" * 5000, "nested far too deep"),
        ("other: []", "unknown key 'other'"),
        ("{1: 2}", "is no key file"),
        ("keys: [3]", "keys.0"),
    ],
)
def test_a_wrong_file_at_the_start_is_refused_with_its_name_and_the_place(tmp_path, text, says):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="keys.yaml is no key file") as refused:
        Authenticator(str(path), DIALECTS)
    assert says in str(refused.value) and "SECRET" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can't be read.*python -m cluster key"):
        Authenticator(str(tmp_path / "absent.yaml"))
    (tmp_path / "keys.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        Authenticator(str(tmp_path / "keys.yaml"))


def test_an_empty_file_has_no_keys():
    assert parse("", Path("keys.yaml")).keys == parse("keys:", Path("keys.yaml")).keys == ()


@pytest.mark.parametrize(
    "client, network",
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        (None, ""),
        ("unix", ""),
    ],
)
def test_callers_without_a_key_are_told_apart_by_their_network(client, network):
    assert Authenticator(None).identify({}, client).address == network
