"""Requests inside a request: each has a trace of its own, and the outer one's trace names them."""

import asyncio
import json

import httpx
import pytest
from starlette.responses import PlainTextResponse

from access.authentication import Authenticator
from deployments.ingress.context import RequestContext
from deployments.ingress.metrics import Metrics
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.settings import LiveTracing, Tracing
from speech.dialects import DIALECTS
from speech.errors import InvalidInput, SpeechError
from tracing import Tracer, vocabulary
from tracing.routes import Routes
from tracing.sampling import SamplingSettings

ROUTE = "/v1/audio/speech"
NAME = f"POST {ROUTE}"
T, S = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312"


class Counted:
    """A metric that remembers what it was told."""

    def __init__(self, name, *_):
        self.name, self.seen = name, []

    def observe(self, value, tags):
        self.seen.append(tags)

    inc = set = observe


class Kinds:
    def __init__(self):
        self.all = {}

    def __getattr__(self, kind):
        def make(name, *args):
            return self.all.setdefault(name, Counted(name))

        return make


class Ingress:
    """The middleware around an application whose only request opens subrequests: `work(subrequests, ctx)`."""

    def __init__(self, folder, work, **sampling):
        self.file, secret = folder / "spans.jsonl", folder / "secret"
        secret.write_text("s" * 64)
        self.recorder = TraceRecorder(
            Tracing(spans_file=str(self.file), secret_file=str(secret), sampling=SamplingSettings(**sampling)), DIALECTS
        )
        self.kinds = Kinds()

        async def app(scope, receive, send):
            await work(self.middleware.subrequests, scope["state"]["context"])
            await PlainTextResponse("fine")(scope, receive, send)

        self.middleware = TracingMiddleware(
            app,
            Tracer("cosyvoice3-api"),
            self.recorder,
            Authenticator(None),
            routes=Routes({ROUTE}),
            deadline_s=5,
            trace_url=lambda trace_id: f"http://zipkin/{trace_id}",
            metrics=Metrics(DIALECTS, self.kinds),
        )

    def post(self, **headers):
        async def post():
            transport = httpx.ASGITransport(self.middleware, client=("127.0.0.1", 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
                return await http.post(ROUTE, headers=headers)

        return asyncio.run(post())

    def kept(self):
        self.recorder.close(5)
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def requests(self):
        return [(tags["route"], tags["outcome"]) for tags in self.kinds.all["cosygraph_requests"].seen]


def test_each_has_a_trace_of_its_own_and_the_outer_trace_names_them(tmp_path):
    inner: list[RequestContext] = []

    async def work(subrequests, parent):
        for number in range(2):
            async with subrequests.open(parent, NAME, deadline_s=60, tags={vocabulary.PIECE: number}) as ctx:
                inner.append(ctx)

    ingress = Ingress(tmp_path, work, ratio=1.0)
    outer = ingress.post(**{"x-user-id": "alice", "b3": f"{T}-{S}"}).headers["x-trace-id"]
    assert outer == T and len({outer, *(ctx.trace_id for ctx in inner)}) == 3
    traces = {trace[0]["traceId"]: trace for trace in ingress.kept()}
    for number, ctx in enumerate(inner):
        [root] = traces[ctx.trace_id]
        assert ctx.kept and root["name"] == NAME and root["kind"] == "SERVER" and "parentId" not in root
        expected = {"http.route": ROUTE, "http.method": "POST", "http.status_code": "200", "piece": str(number)}
        assert (expected | {"request.parent": outer}).items() <= root["tags"].items()
        assert root["tags"]["user.hash"] == traces[outer][0]["tags"]["user.hash"]
    named = [span["tags"] for span in traces[outer] if span["name"] == "SUBREQUEST"]
    assert [tags["subrequest.trace_id"] for tags in named] == [ctx.trace_id for ctx in inner]
    assert {tags["http.status_code"] for tags in named} == {"200"}
    assert ingress.requests() == [(ROUTE, "ok")] * 2, "the inner ones count, and the outer one does not as well"


@pytest.mark.parametrize(
    "raised, kind, status",
    [(InvalidInput("Bad.", code="bad"), "input_validation", "400"), (KeyError(), "internal", "500")],
)
def test_an_error_is_its_own_traces_and_leaves_as_a_speech_error(tmp_path, raised, kind, status):
    async def work(subrequests, parent):
        with pytest.raises(SpeechError) as caught:
            async with subrequests.open(parent, NAME, deadline_s=60):
                raise raised
        assert caught.value.type == kind

    ingress = Ingress(tmp_path, work, ratio=0.0)
    answer = ingress.post()
    assert answer.status_code == 200
    [[root]] = ingress.kept()
    assert root["traceId"] != answer.headers["x-trace-id"], "the outer request went well, and the ratio drops it"
    assert {"error.type": kind, "http.status_code": status}.items() <= root["tags"].items()


def test_a_cancelled_one_says_so_and_stays_cancelled(tmp_path):
    async def work(subrequests, parent):
        async def run():
            async with subrequests.open(parent, NAME, deadline_s=60):
                await asyncio.sleep(60)

        task = asyncio.create_task(run())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    ingress = Ingress(tmp_path, work, ratio=0.0)
    ingress.post()
    [[root]] = ingress.kept()
    assert {"error.type": "cancelled", "http.status_code": "499"}.items() <= root["tags"].items()


def test_its_deadline_is_never_later_than_the_outer_ones(tmp_path):
    async def work(subrequests, parent):
        async with subrequests.open(parent, NAME, deadline_s=1) as ctx:
            assert ctx.remaining_s() <= 1 < parent.remaining_s()
            await ctx.extend_deadline(600)
            assert ctx.deadline_ns == parent.deadline_ns

    Ingress(tmp_path, work).post()


def test_a_callers_word_on_sampling_holds_inside_too(tmp_path):
    async def work(subrequests, parent):
        async with subrequests.open(parent, NAME, deadline_s=5):
            pass

    (tmp_path / "a").mkdir()
    assert len(Ingress(tmp_path / "a", work, ratio=0.0).kept()) == 0
    (tmp_path / "b").mkdir()
    demanding = Ingress(tmp_path / "b", work, ratio=0.0)
    demanding.post(b3=f"{T}-{S}-1")
    assert len(demanding.kept()) == 2
    (tmp_path / "c").mkdir()
    denying = Ingress(tmp_path / "c", work, ratio=1.0)
    denying.post(b3="0")
    assert denying.kept() == []


def test_without_tracing_there_are_ids_and_no_traces(tmp_path):
    ids = []

    async def work(subrequests, parent):
        async with subrequests.open(parent, NAME, deadline_s=5) as ctx:
            ids.append(ctx.trace_id)
        assert ctx.kept is False

    ingress = Ingress(tmp_path, work, ratio=1.0)
    ingress.recorder.reconfigure(LiveTracing(tracing=False))
    ids.append(ingress.post().headers["x-trace-id"])
    assert len(set(ids)) == 2 and all(len(one) == 32 for one in ids) and ingress.kept() == []
