"""Ports, on loopback where nothing else is said: is one free, who has it, give me any."""

from __future__ import annotations

import errno
import socket

import psutil

from cluster.cli_error import CliError

LOOPBACK = "127.0.0.1"
ALL = "0.0.0.0"


def reachable(host: str) -> str:
    """The address at which this machine reaches a server of its own that listens on `host`."""
    return LOOPBACK if host == ALL else host


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """True where nothing listens on `port` of `host`, nor on all addresses. Problem where `host` isn't ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without it, a connection that was closed a minute ago would count as a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as failure:
            if failure.errno == errno.EADDRNOTAVAIL:
                raise CliError(
                    f"{host} is no address of this machine; --host takes one of its own, or {ALL} for all."
                ) from failure
            return False
    return not _accepts(port, reachable(host))


def _accepts(port: int, host: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


def any_free() -> int:
    """A port that nobody listens on right now, chosen by the kernel."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def owner(port: int) -> str | None:
    """`name (pid 123)` of the process that listens on `port`, or None where the system doesn't say."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None


def require_free(port: int, purpose: str, option: str, remedy: str = "", host: str = LOOPBACK) -> None:
    """Raise Problem where `port` is taken, naming who has it and the option that moves us elsewhere."""
    if is_free(port, host):
        return
    holder = owner(port)
    by = f" by {holder}" if holder else " by another process (of another user, so its name can't be read)"
    raise CliError(
        f"Port {port} on {host}, wanted for {purpose}, is taken{by}. "
        f"Choose another one with {option}, for example {option} {port + 1}"
        f"{', or stop that process' if holder else ''}.{' ' + remedy if remedy else ''}"
    )


def open_to_the_network(
    session_pids: set[int], meant: tuple[str, int] | None = None, also: tuple[str, int] | None = None
) -> list[str]:
    """Listeners of these processes that are not on loopback, as `address:port (name)`. Empty is how it should be.

    `meant`, `also`: address and port of those that are to be reached from the network, where there are any.
    """
    found = []
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.pid not in session_pids:
            continue
        address = connection.laddr.ip.removeprefix("::ffff:")
        if (address, connection.laddr.port) in (meant, also):
            continue
        if address != "::1" and not address.startswith("127."):
            found.append(f"{connection.laddr.ip}:{connection.laddr.port} ({psutil.Process(connection.pid).name()})")
    return sorted(found)
