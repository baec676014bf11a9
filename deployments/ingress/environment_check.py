"""Says at the start what this node's environment lacks, and what does not work without it.

A graph on a Ray cluster of its owner's is deployed by Serve alone, and `ray start` must have had the environment that
the launcher gives its own (`python -m cluster env`, docs/scale.md). Replicas and Serve's proxy inherit it from there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

log = logging.getLogger("ray.serve")

#: variable -> what is missing without it
NEEDED_FOR = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "what Serve's proxy answers by itself has no trace and not our error "
    "body, and clients can steer Serve by headers",
    "COSYGRAPH_TRACING": "Serve's proxy counts what it answers by itself and keeps no trace of it",
    "COSYGRAPH_DEADLINE_S": "a client whose ingress replica is lost without a word may wait beyond the deadline",
    "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": "a call to a node that has lost its network waits for the deadline",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "calls between replicas take more CPU",
    "RAY_max_direct_call_object_size": "clips and answers go through Ray's object store",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "a replica that hangs is asked to stop nicely first",
}


def missing(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what the environment lacks: each variable with what does not work without it."""
    found = os.environ if environment is None else environment
    return {name: effect for name, effect in NEEDED_FOR.items() if not found.get(name)}


def warn() -> None:
    """Log a line for each variable that is missing."""
    for name, effect in missing().items():
        log.warning("%s is not set on this node: %s. `python -m cluster env` prints it (docs/scale.md)", name, effect)
