"""Who calls: a named key, or nobody in particular.

The key file may change while the ingress runs: it is read again within half a second, and a damaged one is reported
and changes nothing.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from access.keys import Key, KeyFile, digest, read
from access.settings import CallerLimits
from speech.dialects import Registry

log = logging.getLogger("ray.serve")

_LOOK_EVERY_S = 0.5
_MAX_USER_LENGTH = 256
#: Whoever sends one of these is a proxy that speaks for somebody else, so its own address says nothing.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True)
class Principal:
    """Attributes:
    trusted: whether its "sampled" and "debug" count, and the user it names.
    key: name of the key it has shown.
    user: whom it acts for, as it says; its key's owner where it says nothing. Never leaves as it is.
    roles: what its key may do.
    limits: of its key; None where that has none of its own.
    dialect: of its key, a registry code: stands in where a request may name none and names none.
    refused: what was wrong with a key that was shown and doesn't count.
    address: the peer's network, by which callers without a key are told apart. Never leaves.
    """

    trusted: bool = False
    key: str | None = None
    user: str | None = None
    roles: frozenset[str] = frozenset()
    limits: CallerLimits | None = None
    dialect: str | None = None
    refused: Literal["unknown", "expired"] | None = None
    address: str = ""

    @property
    def principals(self) -> frozenset[str]:
        return frozenset(name for name in (self.key, self.user) if name)


class Authenticator:
    """Tells callers apart by `keys_file`. Without one, everybody on this machine is trusted, and nobody else.

    `dialects`: what the keys' dialects are checked against, where that matters. Raises ValueError where the file is
    there but no key file, at the start alone.
    """

    def __init__(
        self,
        keys_file: str | None,
        dialects: Registry | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = Path(keys_file) if keys_file else None
        self._dialects = dialects
        self._now = now
        self._keys: dict[str, Key] = {}
        self._stamp: tuple[int, ...] | None = None
        self._looked = time.monotonic()
        if self._path is not None:
            self._stamp = self._file_stamp()
            self._take(read(self._path, dialects))

    @property
    def known(self) -> int:
        """How many keys there are, expired ones too."""
        return len({key.name for key in self._keys.values()})

    def identify(self, headers: Mapping[str, str], client: str | None) -> Principal:
        """`headers` by lower-case name, `client` the peer's address. A key comes as `Authorization: Bearer …` or
        `X-API-Key`; the user as `X-User-Id`, which counts from a trusted caller alone."""
        if self._path is None:
            trusted = _is_loopback(client) and not any(name in headers for name in _FORWARDED)
            return Principal(trusted, user=_named_user(headers) if trusted else None, address=_network(client))
        self._reload()
        shown = _shown(headers)
        # A look-up by hash may take as long as it likes to differ: what leaks is a digest's beginning, and nobody can
        # make a key of 256 random bits to fit one.
        key = self._keys.get(digest(shown)) if shown else None
        if key is None:
            return Principal(refused="unknown" if shown else None, address=_network(client))
        if key.ends is not None and key.ends <= self._now():
            return Principal(refused="expired", address=_network(client))
        user = _named_user(headers) if key.trusted else None
        return Principal(
            key.trusted,
            key.name,
            user or key.owner or key.name,
            key.roles,
            key.limits,
            key.dialect,
            address=_network(client),
        )

    def _reload(self) -> None:
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also of a damaged file: it is reported once
        try:
            self._take(read(self._path, self._dialects))
        except ValueError as error:
            log.error("the keys read before stay in force: %s", error)

    def _take(self, file: KeyFile) -> None:
        self._keys = file.by_hash()

    def _file_stamp(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino  # a chmod mends some damage too


def _named_user(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-user-id", "")[:_MAX_USER_LENGTH].strip() or None


def _shown(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


def _network(address: str | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 one, which is what one subscriber has."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip if ip.version == 4 else ip.ipv4_mapped)
