"""Finds out which stages of a backend have a replica that answers, or are stopped until they are needed.

A deployment with `min_replicas: 0` may have no replica. It can serve all the same: Serve starts one with the next
request. It is not asked, because a question would start it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments import ray_internals
from deployments.ingress.backends import Backend
from deployments.ingress.stage_clients import StageClient

TIMEOUT_S = 2.0
CACHE_S = 1.0  #: probes must not become load
STOPPED_S = 10.0  #: so long a stage is taken for stopped before Serve is asked again: its controller has other work


class Readiness:
    """The answers of one ingress replica's stages, cached for `CACHE_S`."""

    def __init__(self) -> None:
        self._cached: tuple[float, Backend | None, dict[str, bool]] = (float("-inf"), None, {})
        self._stopped_at_s: dict[str, float] = {}

    async def stages(self, backend: Backend) -> dict[str, bool]:
        """Return by service whether it can serve; asked at most once a second."""
        at, cached_for, stages = self._cached
        if time.monotonic() - at > CACHE_S or cached_for is not backend:
            answers = await asyncio.gather(*map(self._answers, backend.graph.stages.values()))
            stages = dict(zip(backend.graph.stages, answers, strict=True))
            self._cached = (time.monotonic(), backend, stages)
        return stages

    async def _answers(self, stage: StageClient) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if await self._is_stopped(stage.handle):
                    return True
                await stage.handle.ping.remote()
        except Exception:
            return False  # whatever the reason, this stage can't serve now
        return True

    async def _is_stopped(self, handle: DeploymentHandle[Any]) -> bool:
        """Tell whether Serve has stopped this deployment. One that has just begun to start counts, for STOPPED_S."""
        name = handle.deployment_name
        if ray_internals.running_replicas(handle) != 0:
            self._stopped_at_s.pop(name, None)
            return False
        if time.monotonic() - self._stopped_at_s.get(name, float("-inf")) < STOPPED_S:
            return True
        if await asyncio.to_thread(ray_internals.wanted_replicas, handle) != 0:
            return False
        self._stopped_at_s[name] = time.monotonic()
        return True
