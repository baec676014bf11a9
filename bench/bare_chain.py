"""Builds the floor of any graph of this shape: an ingress and four deployments on bare Ray Serve.

No tracing, no batching, no form: the ingress reads the body and awaits four handle calls one after the other. With
`sizes`, each stage puts an array of so many bytes into Ray's object store and the next one takes it as an ObjectRef,
which only Ray's actor calls can do (`by_reference`); the graph itself hands arrays on as `deployments/arrays.py` says.
Used by `bench.overhead`.
"""

import asyncio

import numpy as np
import ray
from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import Response

ANSWER = bytes(480_044)
HOLD_S = 10.0


class Stage:
    async def work(self, milliseconds: float, size: int, array: np.ndarray | None = None) -> list:
        await asyncio.sleep(milliseconds / 1000)
        if not size:
            return []
        ref = ray.put(np.zeros(size, np.uint8))
        asyncio.get_running_loop().call_later(HOLD_S, id, ref)  # see deployments/arrays.py
        return [ref]


class Ingress:
    def __init__(self, stages: list, milliseconds: list[float], sizes: list[int], by_reference: bool) -> None:
        handles = [stage.options(_by_reference=True) if by_reference else stage for stage in stages]
        self._stages = list(zip(handles, milliseconds, sizes, strict=True))

    async def __call__(self, request: Request) -> Response:
        await request.body()
        refs: list = []
        for stage, milliseconds, size in self._stages:
            refs = await stage.work.remote(milliseconds, size, *refs)
        return Response(ANSWER, media_type="audio/wav")


def build(args: dict) -> Application:
    """Build the application.

    Args:
        args: `milliseconds` that each of the four stages sleeps, `sizes` in bytes of the arrays that they hand on, and
            `by_reference`, True for Ray's actor calls, else as the environment says.
    """
    deployed = serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
    stages = [deployed(Stage).options(name=f"stage-{number}").bind() for number in range(4)]
    return deployed(Ingress).bind(
        stages, args["milliseconds"], args.get("sizes", [0, 0, 0, 0]), args.get("by_reference", False)
    )
