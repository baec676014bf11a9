"""Which stages of a line have a replica that answers."""

from __future__ import annotations

import asyncio
import time

from deployments.ingress.backends import Backend
from deployments.ingress.stage_clients import StageClient

TIMEOUT_S = 2.0
CACHE_S = 1.0  #: probes must not become load


class Readiness:
    """One ingress replica's."""

    def __init__(self) -> None:
        self._asked: tuple[float, Backend | None, dict[str, bool]] = (float("-inf"), None, {})

    async def stages(self, line: Backend) -> dict[str, bool]:
        """By service, asked at most once a second."""
        at, of, stages = self._asked
        if time.monotonic() - at > CACHE_S or of is not line:
            answers = await asyncio.gather(*map(_answers, line.pipeline.stages.values()))
            stages = dict(zip(line.pipeline.stages, answers, strict=True))
            self._asked = (time.monotonic(), line, stages)
        return stages


async def _answers(stage: StageClient) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await stage.handle.ping.remote()
    except Exception:
        return False  # whatever the reason, this stage can't serve now
    return True
