"""`python -m cluster.drain ADDRESS MODULE APP SECONDS`: close a running graph's door and see its guests off.

A process of its own, because it becomes a driver of the Ray cluster. Prints how many requests are left.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module

from cluster import loopback


def main(address: str, module: str, app: str, seconds: str) -> int:
    loopback.keep()
    # The replicas route calls on their own event loop (cluster/ray_head.py); this process has none.
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"
    import ray

    drain = getattr(import_module(module), "drain", None)
    if drain is None:
        return 0
    ray.init(address=address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    print(drain(app, float(seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
