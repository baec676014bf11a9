"""`/ready`: a stage is asked, unless Serve has stopped it until a request needs it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import ray_internals
from deployments.ingress.readiness import Readiness


class Handle:
    """A Serve handle that knows of so many replicas; None: it was not used yet."""

    app_name, deployment_name = "cosygraph", "audio-service"

    def __init__(self, running: int | None, fails: bool = False) -> None:
        router = SimpleNamespace(request_router=SimpleNamespace(curr_replicas=dict.fromkeys(range(running or 0))))
        self._router = SimpleNamespace(_asyncio_router=router) if running is not None else None
        self.asked = 0
        self.ping = SimpleNamespace(remote=self._ping)
        self._fails = fails

    async def _ping(self) -> None:
        self.asked += 1
        if self._fails:
            raise RuntimeError("no replica")


def ready(handle: Handle, readiness: Readiness | None = None) -> bool:
    backend: Any = SimpleNamespace(graph=SimpleNamespace(stages={"audio-service": SimpleNamespace(handle=handle)}))
    return asyncio.run((readiness or Readiness()).stages(backend))["audio-service"]


@pytest.fixture
def serve_wants(monkeypatch):
    """Sets how many replicas of audio-service Serve wants."""

    def wants(count: int | None) -> None:
        deployments = {} if count is None else {"audio-service": {"target_num_replicas": count}}
        details = {"applications": {"cosygraph": {"deployments": deployments}}}
        monkeypatch.setattr(ray_internals, "serve_details", lambda: details)

    return wants


def test_a_stopped_stage_can_serve_and_is_not_started_by_the_question(serve_wants):
    serve_wants(0)
    handle = Handle(running=0, fails=True)
    assert ready(handle) and handle.asked == 0


@pytest.mark.parametrize("wanted", [1, None])
def test_a_stage_that_has_lost_its_last_replica_can_not(serve_wants, wanted):
    serve_wants(wanted)
    handle = Handle(running=0, fails=True)
    assert not ready(handle) and handle.asked == 1


@pytest.mark.parametrize("running", [1, None])
def test_a_stage_with_replicas_is_asked_and_serve_is_not(monkeypatch, running):
    monkeypatch.setattr(ray_internals, "serve_details", lambda: pytest.fail("the controller has better things to do"))
    handle = Handle(running)
    assert ready(handle) and handle.asked == 1
    assert not ready(Handle(running, fails=True))


def test_without_an_answer_of_serves_a_stage_without_replicas_can_not(monkeypatch):
    def raises() -> None:
        raise ConnectionError

    monkeypatch.setattr(ray_internals, "serve_details", raises)
    assert not ready(Handle(running=0))


def test_serve_is_asked_again_after_a_while_and_at_once_after_the_stage_has_run(serve_wants, monkeypatch):
    monkeypatch.setattr("deployments.ingress.readiness.CACHE_S", -1.0)
    readiness = Readiness()
    serve_wants(0)
    assert ready(Handle(running=0), readiness)
    serve_wants(1)
    starting = Handle(running=0, fails=True)
    assert ready(starting, readiness) and starting.asked == 0, "a request has begun to start it"
    assert ready(Handle(running=1), readiness)
    assert not ready(starting, readiness), "it ran, and has lost its last replica"
    serve_wants(0)
    assert ready(starting, readiness)
    serve_wants(1)
    monkeypatch.setattr("deployments.ingress.readiness.STOPPED_S", 0.0)
    assert not ready(starting, readiness), "it has not come up"
