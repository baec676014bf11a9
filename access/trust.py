"""The callers whose word counts in tracing without keys: those on this machine that speak for themselves.

With a key file, the key's entry decides instead (`trusted` in `access/keys.py`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

#: A request with one of these comes through a proxy, so the peer's address is not the caller's.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


def is_trusted_peer(headers: Mapping[str, str], client: str | None) -> bool:
    """Return True for a peer on loopback that does not forward the request of another.

    Args:
        headers: By lower-case name.
        client: The peer's address.
    """
    return _is_loopback(client) and not any(name in headers for name in _FORWARDED)


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False
