"""Work in threads of its own: as many run as may, also when clients leave in the middle of theirs."""

import asyncio
import threading

import pytest
from fastapi import FastAPI
from starlette.requests import Request

from deployments.ingress import form
from deployments.ingress.limited_threads import LimitedThreads
from deployments.ingress.routes import verify, voices
from speech import audio, verification
from tests.helpers.serving import tone


class Slow:
    """A function that ends when it is let go; counts how many are in it."""

    def __init__(self) -> None:
        self.go, self.lock = threading.Event(), threading.Lock()
        self.inside = self.begun = self.most = 0

    def __call__(self, *args: object, **kwargs: object) -> None:
        with self.lock:
            self.inside, self.begun = self.inside + 1, self.begun + 1
            self.most = max(self.most, self.inside)
        self.go.wait(30)
        with self.lock:
            self.inside -= 1


async def leave_after_a_moment(call) -> None:
    task = asyncio.create_task(call())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_those_who_leave_make_no_room_for_more_threads():
    async def run() -> None:
        threads, slow = LimitedThreads(2, "test"), Slow()

        async def call() -> None:
            async with threads.place:
                await threads.run(slow)

        for _ in range(6):
            await leave_after_a_moment(call)
        assert (slow.most, slow.begun) == (2, 2)
        slow.go.set()
        assert await threads.run(lambda: "next") == "next"  # and those who never began are gone

    asyncio.run(run())


def test_what_a_function_raises_is_raised():
    def fail(*, text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ValueError, match="so it is"):
        asyncio.run(LimitedThreads(1, "test").run(fail, text="so it is"))


@pytest.mark.parametrize("kind", ["enrol", "verify"])
def test_slow_files_of_clients_that_leave_take_no_thread_from_other_requests(kind, monkeypatch, tmp_path):
    from tests.unit.test_voices_routes import GOOD, Api
    from voices import VoiceSettings

    async def run() -> None:
        slow, app = Slow(), FastAPI()
        monkeypatch.setattr(audio, "read", slow)
        monkeypatch.setattr(verification, "read", slow)

        async def read(request: Request, kind: form.Kind) -> form.Form:
            return form.Form(dict(GOOD) if kind is voices.FORM else {}, tone())

        monkeypatch.setattr(form, "read", read)
        api = Api(VoiceSettings(url=str(tmp_path)))
        (voices if kind == "enrol" else verify).add(app, api)
        path = voices.ALL if kind == "enrol" else verify.PATH
        endpoint = next(
            route.endpoint for route in app.routes if route.path == path and "POST" in getattr(route, "methods", ())
        )
        request = Request({"type": "http", "state": {"context": None}, "headers": []})
        monkeypatch.setattr(verify, "context_of", lambda request: None)
        monkeypatch.setattr(voices, "context_of", lambda request: None)
        monkeypatch.setattr(voices, "tag_dialect", lambda *args: None)
        for _ in range(6):
            await leave_after_a_moment(lambda: endpoint(request))
        slow.go.set()
        assert slow.begun == slow.most == 2

    asyncio.run(run())
