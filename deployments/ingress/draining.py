"""Stops a running graph without breaking the requests under way."""

from __future__ import annotations

import time

from ray import serve

from deployments.ingress.deployment import CosyVoice3Api


def drain(app_name: str, timeout_s: float = 30.0) -> int:
    """Make every ingress replica refuse new requests, and wait for those in flight.

    Needs a process connected to the application's Ray cluster. Serve's own shutdown would stop idle later stages
    first and break the requests under way.

    Returns:
        The number of requests that were left after `timeout_s`.
    """
    api = serve.get_deployment_handle(CosyVoice3Api.service, app_name)
    end = time.monotonic() + timeout_s
    while True:
        left: int = sum(api.broadcast("drain").results(timeout_s=5))
        if left == 0 or time.monotonic() > end:
            return left
        time.sleep(0.1)
