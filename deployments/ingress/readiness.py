"""Finds out which stages of a backend have a replica that answers, or are stopped until they are needed.

A deployment with `min_replicas: 0` may have no replica. It can serve all the same: Serve starts one with the next
request. It is not asked, because a question would start it.
"""

from __future__ import annotations

import asyncio
import time

from deployments import ray_internals
from deployments.ingress.backends import Backend
from deployments.ingress.stage_clients import StageClient

TIMEOUT_S = 2.0
CACHE_S = 1.0  #: probes must not become load


class Readiness:
    """The answers of one ingress replica's stages, cached for `CACHE_S`."""

    def __init__(self) -> None:
        self._cached: tuple[float, Backend | None, dict[str, bool]] = (float("-inf"), None, {})

    async def stages(self, backend: Backend) -> dict[str, bool]:
        """Return by service whether it can serve; asked at most once a second."""
        at, cached_for, stages = self._cached
        if time.monotonic() - at > CACHE_S or cached_for is not backend:
            answers = await asyncio.gather(*map(_answers, backend.graph.stages.values()))
            stages = dict(zip(backend.graph.stages, answers, strict=True))
            self._cached = (time.monotonic(), backend, stages)
        return stages


async def _answers(stage: StageClient) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            if await _is_stopped(stage):
                return True
            await stage.handle.ping.remote()
    except Exception:
        return False  # whatever the reason, this stage can't serve now
    return True


async def _is_stopped(stage: StageClient) -> bool:
    """Tell whether Serve wants no replica of this stage now."""
    if ray_internals.running_replicas(stage.handle) != 0:
        return False
    return await asyncio.to_thread(ray_internals.wanted_replicas, stage.handle) == 0
