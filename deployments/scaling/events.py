"""Leaves the policy's decisions in Ray's key-value store, where the watchdog finds them and makes traces of them.

The policy runs in Serve's controller, which has no exporter of ours, and must not have one: a spool, a sender and its
retries would live and die with the process that keeps Serve together. The watchdog has all that, looks at the targets
every few seconds anyway, and knows when the replicas run. So the controller writes a few hundred bytes when it has
decided something, in a thread, and the watchdog reads them when it sees that a target has changed.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from deployments import ray_internals
from deployments.scaling.policy import Change

log = logging.getLogger("ray.serve")

KEPT = 64  #: changes; the watchdog reads them after seconds


def key(app_name: str) -> str:
    """Return the key of an application's changes."""
    return f"cosygraph:scaling:{app_name}"


class Events:
    """Keeps the last changes where other processes find them.

    Args:
        put: writes a value under a key; for tests.
    """

    def __init__(self, put: Callable[[str, bytes], None] = ray_internals.kv_put) -> None:
        from ray.util import metrics

        self._put = put
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="scaling-events")
        self._kept: deque[Change] = deque(maxlen=KEPT)
        self._failures = metrics.Counter(
            "cosygraph_scaling_failures", "Decisions of the scaling policy that failed", ("error",)
        )
        self._changes = metrics.Counter(
            "cosygraph_scaling_changes", "Targets that the scaling policy has changed", ("service", "cause")
        )

    def keep(self, app_name: str, changes: Sequence[Change]) -> None:
        """Count the changes, and write the last ones from a thread: the caller must not wait for the store."""
        self._kept.extend(changes)
        for change in changes:
            self._changes.inc(1, {"service": change.service, "cause": change.cause})
        value = json.dumps([asdict(change) for change in self._kept]).encode()
        self._writer.submit(self._write, key(app_name), value)

    def _write(self, key: str, value: bytes) -> None:
        try:
            self._put(key, value)
        except Exception as error:
            log.warning(
                "a decision of the scaling policy could not be left for the watchdog (%s)", type(error).__name__
            )

    def count_failure(self, error: str) -> None:
        """Count a decision that failed."""
        self._failures.inc(1, {"error": error})


def read(app_name: str, get: Callable[[str], bytes | None] = ray_internals.kv_get) -> list[Change]:
    """Return an application's last changes, the oldest first; empty if there are none or they can't be read."""
    try:
        value = get(key(app_name))
        return [Change(**one) for one in json.loads(value)] if value else []
    except Exception as error:
        log.warning("the scaling policy's decisions can't be read (%s)", type(error).__name__)
        return []
