"""Who calls: a named key, or nobody in particular. Trust decides whose word on tracing counts.

A key file is YAML, readable by the ingress alone, and holds no secret, only hashes:

    keys:
      - name: load-test
        sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

`python -m deployments.callers NAME` makes a key and its entry. A key has 256 random bits, so its plain hash can't be
turned back. The file may be edited while the ingress runs; a damaged one is reported, and the last good one stays.

Today a key earns trust and a name. Whether one is required at all is not decided here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from deployments.settings import Strict

log = logging.getLogger("ray.serve")

_RELOAD_EVERY_S = 1.0
_MAX_USER_LENGTH = 256
#: Whoever sends one of these is a proxy that speaks for somebody else, so its own address says nothing.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class Key(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Keys(Strict):
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Caller:
    """Attributes:
        trusted: whether its "sampled" and "debug" count, and the user it names.
        key: name of the key it has shown.
        user: whom it acts for, as it says; its key's name where it says nothing. Never leaves as it is.
    """

    trusted: bool = False
    key: str | None = None
    user: str | None = None
    dialect: str | None = None
    roles: frozenset[str] = frozenset()

    @property
    def principals(self) -> frozenset[str]:
        return frozenset(name for name in (self.key, self.user) if name)


class Callers:
    """Tells callers apart by `keys_file`. Without one, everybody on this machine is trusted, and nobody else.

    Raises ValueError where the file is there but no key file, at the start alone.
    """

    def __init__(self, keys_file: str | None) -> None:
        self._path = Path(keys_file) if keys_file else None
        self._names: dict[str, str] = {}
        self._stamp: tuple[int, int] | None = None
        self._looked = time.monotonic()
        if self._path is not None:
            self._load()

    def identify(self, headers: Mapping[str, str], client: str | None) -> Caller:
        """`headers` by lower-case name, `client` the peer's address. A key comes as `Authorization: Bearer …` or
        `X-API-Key`; the user as `X-User-Id`, which counts from a trusted caller alone."""
        if self._path is None:
            trusted, key = _is_loopback(client) and not any(name in headers for name in _FORWARDED), None
        else:
            self._reload()
            key = self._names.get(_digest(_shown(headers)))
            trusted = key is not None
        user = headers.get("x-user-id", "")[:_MAX_USER_LENGTH].strip() if trusted else ""
        return Caller(trusted, key, user or key)

    def _reload(self) -> None:
        if time.monotonic() - self._looked < _RELOAD_EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            if self._file_stamp() != self._stamp:
                self._load()
        except (ValueError, OSError) as error:
            log.error("the key file can't be read, the keys read before stay in force: %s", error)

    def _file_stamp(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size

    def _load(self) -> None:
        try:
            self._stamp = self._file_stamp()
            entries = _Keys(**(yaml.safe_load(self._path.read_text(encoding="utf-8")) or {})).keys
        except OSError as error:
            raise ValueError(f"the key file {self._path} can't be read ({error.strerror}); create it with `python -m "
                             "deployments.callers NAME`, or leave tracing.keys_file out") from error
        except (yaml.YAMLError, TypeError, ValidationError) as error:
            raise ValueError(f"{self._path} is no key file: it needs a list `keys`, each with `name` (lower-case "
                             "letters, digits, - and _) and `sha256` (64 hex digits)") from error
        self._names = {entry.sha256: entry.name for entry in entries}


def _shown(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


def main(names: list[str]) -> int:
    """Print a fresh key for each name, with the entry that makes it known."""
    if not names:
        print("usage: python -m deployments.callers NAME …", file=sys.stderr)
        return 2
    for name in names:
        key = secrets.token_urlsafe(32)
        try:
            entry = Key(name=name, sha256=_digest(key))
        except ValidationError:
            print(f"{name!r} is no key name: lower-case letters, digits, - and _, at most 40", file=sys.stderr)
            return 2
        print(f"# for {entry.name}, shown this once: {key}\n  - name: {entry.name}\n    sha256: {entry.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
