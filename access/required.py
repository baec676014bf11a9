"""The rule that decides if keys are required. A service open to the network without keys does not start."""

from __future__ import annotations

import ipaddress

from access.settings import Access

REMEDY = (
    "make a key with `python -m cluster key NAME`, whose file the launcher finds by itself, or with `--file "
    "FILE` and name that file as access.keys_file; or listen on 127.0.0.1 alone; or, where something in front of "
    "the service checks the callers, set access.required: false"
)


def keys_file_of(access: Access, tracing_keys_file: str | None) -> str | None:
    """The path of the key file. `tracing.keys_file` is the older setting for it.

    Raises:
        ValueError: the two settings differ.
    """
    if access.keys_file and tracing_keys_file and access.keys_file != tracing_keys_file:
        raise ValueError(
            "access.keys_file and tracing.keys_file name different files, but there is one key file: "
            "leave tracing.keys_file out"
        )
    return access.keys_file or tracing_keys_file


def keys_required(access: Access, host: str | None, keys: int) -> bool:
    """Decide if every request needs a key.

    Args:
        access: the settings.
        host: the address on which the HTTP server listens; None if unknown, which counts as open to the network.
        keys: the number of keys.

    Raises:
        ValueError: keys are required, and there are none.
    """
    if access.required is False:
        return False
    if access.required == "auto" and is_loopback(host):
        return False
    if keys == 0:
        where = (
            "access.required is true"
            if access.required is True
            else (
                f"the HTTP server listens on {host}, which is open to the network"
                if host
                else "the HTTP server's address can't be found out, and so counts as open to the network"
            )
        )
        raise ValueError(f"{where}, and there are no keys: {REMEDY}")
    return True


def is_loopback(host: str | None) -> bool:
    """Tell whether `host` is an address of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
