"""Authentication: which key a request has shown, and whether it is valid.

The key file may change while the ingress runs. A change takes effect within half a second; of a file with hundreds of
keys, as soon as it is read. A damaged file is logged, and changes nothing.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from access.keys import Key, KeyFile, digest, read_key_file
from access.settings import CallerLimits
from access.trust import is_trusted_peer
from speech.dialects import Registry

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.5
#: A larger file is read in a thread: a thousand keys take more than a second, in all replicas at the same time.
_LARGE_BYTES = 32 * 1024
_MAX_USER_LENGTH = 256


@dataclass(frozen=True)
class Principal:
    """The caller of a request.

    Attributes:
        trusted: its "sampled" and "debug" headers count, and so does the user that it names.
        key: the name of its valid key; None without one.
        user: the user for whom it acts: `X-User-Id` of a trusted caller, else the key's owner. Exported only as a hash.
        roles: the roles of its key.
        limits: the limits of its key; None if the key has none of its own.
        dialect: the key's dialect (a registry code), for requests that may leave the dialect out and do.
        refused: the reason why the key that was shown is not valid.
        address: the peer's network, which tells callers without a key apart. Never exported.
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
        """The names of key and user, for the sampling rule `principal`."""
        return frozenset(name for name in (self.key, self.user) if name)


class Authenticator:
    """Identifies callers by the key file. Without one, exactly the callers on this machine are trusted.

    Args:
        keys_file: path of the key file, or None.
        dialects: the registry against which the keys' dialects are checked; None: they are not.
        now: the clock for expiry.

    Raises:
        ValueError: the file is missing or damaged. Only at the start: later it is logged.
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
        self._checked_at = time.monotonic()
        self._reading: threading.Thread | None = None
        if self._path is not None:
            self._stamp = _stamp(self._path)
            self._use(read_key_file(self._path, dialects))

    @property
    def known(self) -> int:
        """The number of keys, expired ones included."""
        return len({key.name for key in self._keys.values()})

    def identify(self, headers: Mapping[str, str], client: str | None) -> Principal:
        """Identify the caller of a request.

        Args:
            headers: by lower-case name. The key comes as `Authorization: Bearer …` or `X-API-Key`, the user as
                `X-User-Id`, which counts only from a trusted caller.
            client: the peer's address.
        """
        if self._path is None:
            trusted = is_trusted_peer(headers, client)
            return Principal(trusted, user=_named_user(headers) if trusted else None, address=_network(client))
        self._reload(self._path)
        shown = _key_of(headers)
        # The time that the look-up takes may tell the beginning of a digest. That is no use without a key of 256 random
        # bits that has this digest.
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

    def _reload(self, path: Path) -> None:
        if time.monotonic() - self._checked_at < _CHECK_EVERY_S:
            return
        self._checked_at = time.monotonic()
        if self._reading is not None and self._reading.is_alive():
            return  # what has changed since is found afterwards
        stamp = _stamp(path)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also of a damaged file: it is logged once
        if stamp is not None and stamp[2] > _LARGE_BYTES:
            self._reading = threading.Thread(target=self._read, args=(path,), name="read-keys", daemon=True)
            self._reading.start()
        else:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            self._use(read_key_file(path, self._dialects))
        except ValueError as error:
            log.error("the keys read before stay in force: %s", error)

    def _use(self, file: KeyFile) -> None:
        self._keys = file.by_hash()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """A value that changes with the file; None if it can't be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino  # a chmod mends some damage too


def _named_user(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-user-id", "")[:_MAX_USER_LENGTH].strip() or None


def _key_of(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _network(address: str | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 one, which is what one subscriber has."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip if ip.version == 4 else ip.ipv4_mapped)
