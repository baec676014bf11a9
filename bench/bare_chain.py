"""The floor under any graph of this shape: an ingress and four deployments on bare Ray Serve, nothing else.

No tracing, no arrays, no batching, no form: the ingress reads the body, awaits four handle calls one after the other,
and answers with as many bytes as the real graph does. Used by `bench.overhead`.
"""

import asyncio

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import Response

ANSWER = bytes(480_044)


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Stage:
    async def work(self, milliseconds: float) -> float:
        await asyncio.sleep(milliseconds / 1000)
        return milliseconds


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Ingress:
    def __init__(self, stages: list, milliseconds: list[float]) -> None:
        self._stages = list(zip(stages, milliseconds, strict=True))

    async def __call__(self, request: Request) -> Response:
        await request.body()
        for stage, milliseconds in self._stages:
            await stage.work.remote(milliseconds)
        return Response(ANSWER, media_type="audio/wav")


def build(args: dict) -> Application:
    """`args["milliseconds"]`: how long each of the four stages sleeps."""
    stages = [Stage.options(name=f"stage-{number}").bind() for number in range(4)]
    return Ingress.bind(stages, args["milliseconds"])
