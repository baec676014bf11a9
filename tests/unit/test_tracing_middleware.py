"""The outermost layer of the ingress without Ray: what is kept of a request's trace, and what its answer says of it."""

import asyncio
import json
import math
import time

import httpx
import pytest
from starlette.responses import PlainTextResponse

from access.authentication import Authenticator
from deployments.ingress import arrival
from deployments.ingress.app import build
from deployments.ingress.arrival import Arrival
from deployments.ingress.proxy_middleware import ProxyMiddleware
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import DEADLINE, TracingMiddleware
from deployments.settings import LiveTracing, Tracing
from speech.dialects import DIALECTS
from speech.errors import InvalidInput
from tracing import SamplingState, Tracer, extract
from tracing.routes import Routes
from tracing.sampling import Rule, SamplingSettings

T, S = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312"
ROUTE = "/api/generate"


class Ingress:
    """A gateway around `app`, whose kept traces lie in a file."""

    def __init__(self, folder, app, door=False, keys_file=None, **sampling):
        self.file = folder / "spans.jsonl"
        self.secret = folder / "secret"
        self.secret.write_text("s" * 64)
        self.settings = Tracing(
            spans_file=str(self.file),
            secret_file=str(self.secret),
            keys_file=keys_file,
            sampling=SamplingSettings(**sampling),
        )
        self.keeper = TraceRecorder(self.settings, DIALECTS)
        tracer = Tracer("cosyvoice3-api")
        self.app = TracingMiddleware(
            app,
            tracer,
            self.keeper,
            Authenticator(keys_file),
            routes=Routes({ROUTE, "/health"}),
            deadline_s=5,
            trace_url=lambda trace_id: f"http://zipkin/{trace_id}",
        )

    def get(self, path=ROUTE, client=("127.0.0.1", 5), method="GET", **headers) -> httpx.Response:
        async def get():
            transport = httpx.ASGITransport(self.app, client=client)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
                return await http.request(method, path, headers=headers)

        return asyncio.run(get())

    def kept(self) -> list[list[dict]]:
        self.keeper.close(5)
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


async def fine(scope, receive, send):
    await PlainTextResponse("fine")(scope, receive, send)


async def failing(scope, receive, send):
    raise InvalidInput("The field 'text' is empty.", code="text_empty")


@pytest.mark.parametrize(
    "app, headers, client, reason",
    [
        (fine, {}, "127.0.0.1", None),
        (fine, {"b3": f"{T}-{S}-1"}, "127.0.0.1", "caller_demanded"),
        (fine, {"X-B3-Flags": "1"}, "127.0.0.1", "caller_demanded"),
        (fine, {"traceparent": f"00-{T}-{S}-01"}, "127.0.0.1", "caller_demanded"),
        (fine, {"b3": f"{T}-{S}-1"}, "192.0.2.7", None),
        (fine, {"x-user-id": "alice"}, "127.0.0.1", "principal"),
        (fine, {"x-user-id": "alice"}, "192.0.2.7", None),
        (failing, {}, "192.0.2.7", "error"),
        (failing, {"traceparent": f"00-{T}-{S}-00"}, "127.0.0.1", "error"),
        (failing, {"b3": "0"}, "127.0.0.1", None),
        (failing, {"b3": f"{T}-{S}-0"}, "127.0.0.1", None),
    ],
)
def test_the_gateway_asks_the_rules_with_all_it_knows(tmp_path, app, headers, client, reason):
    ingress = Ingress(tmp_path, app, ratio=0.0, principals={"alice"})
    answer = ingress.get(client=(client, 5), **headers)
    assert len(answer.headers["x-trace-id"]) == 32, "said in every answer, kept or not"
    assert ("x-trace-url" in answer.headers) == (reason is not None), "a link only to what is there"
    kept = ingress.kept()
    assert [trace[0]["tags"]["sampling.reason"] for trace in kept] == ([reason] if reason else [])
    counted = {name: n for name, n in ingress.keeper.counters().items() if name.startswith(("kept_", "dropped_"))}
    assert sum(counted.values()) == 1 and any(name.startswith("kept_") for name in counted) == bool(reason), counted


def test_the_ratio_and_the_adjusted_count(tmp_path):
    ingress = Ingress(tmp_path, fine, ratio=0.5)
    answers = [ingress.get() for _ in range(200)]
    kept = ingress.kept()
    assert 60 <= len(kept) <= 140, "0.5 of 200, six standard deviations"
    assert len(kept) == sum("x-trace-url" in answer.headers for answer in answers)
    assert {trace[0]["tags"]["sampling.adjusted_count"] for trace in kept} == {"2"}
    assert {trace[0]["tags"]["sampling.reason"] for trace in kept} == {"ratio"}


def test_a_user_leaves_as_a_keyed_hash_and_not_at_all_without_a_secret(tmp_path):
    ingress = Ingress(tmp_path, fine, ratio=1.0)
    ingress.get(**{"x-user-id": "+8613800000000"})
    [[root]] = ingress.kept()
    assert len(root["tags"]["user.hash"]) == 16 and "13800000000" not in ingress.file.read_text()
    bare = TraceRecorder(Tracing(), DIALECTS)
    assert bare.user_hash(Authenticator(None).identify({"x-user-id": "alice"}, "127.0.0.1")) is None


@pytest.mark.parametrize("content, message", [(None, "can't be read.*openssl"), ("short", "at least 32")])
def test_a_secret_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "secret"
    if content:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        TraceRecorder(Tracing(secret_file=str(path)), DIALECTS)


@pytest.mark.parametrize(
    "client, word, decision",
    [
        ("127.0.0.1", "1", SamplingState.ACCEPT),
        ("127.0.0.1", "d", SamplingState.DEBUG),
        ("127.0.0.1", "0", SamplingState.DENY),
        ("192.0.2.7", "1", SamplingState.DEFER),
        ("192.0.2.7", "0", SamplingState.DENY),
    ],
)
def test_a_call_on_a_requests_behalf_carries_both_families(tmp_path, client, word, decision):
    seen = {}

    async def calling(scope, receive, send):
        seen.update(scope["state"]["context"].outgoing_headers())
        await fine(scope, receive, send)

    Ingress(tmp_path, calling).get(client=(client, 5), b3=f"{T}-{S}-{word}")
    assert {"b3", "X-B3-TraceId", "X-B3-SpanId", "traceparent"} <= seen.keys()
    handed_on = extract(seen)
    assert handed_on.sampling_state is decision and f"{handed_on.parent.trace_id:032x}" == T
    assert f"{handed_on.parent.span_id:016x}" != S, "the ingress's own span is the parent"


def test_a_fine_health_check_is_no_trace_and_a_failing_one_is(tmp_path):
    ingress = Ingress(tmp_path, fine, ratio=1.0)
    assert "x-trace-url" not in ingress.get("/health").headers
    assert ingress.kept() == []
    (tmp_path / "b").mkdir()
    assert len(Ingress(tmp_path / "b", failing, ratio=0.0).get("/health").headers["x-trace-url"]) > 0


def test_a_defect_of_the_ingress_is_an_error_in_our_shape_and_in_the_trace_and_not_quoted(tmp_path, caplog):
    class Defective:
        def engine_for(self, ctx):
            try:
                raise ValueError("secret")
            except ValueError as error:
                raise KeyError("a secret too") from error

    ingress = Ingress(tmp_path, build(Defective()), ratio=0.0)
    answer = ingress.get("/api/dialects")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal")
    [[root]] = ingress.kept()
    assert root["tags"]["error.type"] == "internal" and root["tags"]["sampling.reason"] == "error"
    [record] = [record.getMessage() for record in caplog.records if "the ingress failed" in record.getMessage()]
    assert answer.headers["x-trace-id"] in record
    assert "builtins.KeyError at " in record and "caused by builtins.ValueError at " in record
    assert "in engine_for" in record and __file__ in record
    assert "secret" not in answer.text + caplog.text


class Proxy:
    """Serve's proxy as the door sees it: the ingress's answer, an answer of its own, or none."""

    def __init__(self, folder, app, deadline_s=math.inf):
        self.file = folder / "spans.jsonl"
        tracing = Tracing(spans_file=str(self.file), sampling=SamplingSettings(ratio=0.0))
        self.door = ProxyMiddleware(app, tracing, deadline_s)

    get = Ingress.get
    app = property(lambda self: self.door)

    def kept(self):
        if self.door._recorder:
            self.door._recorder.close(5)
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


async def dead(scope, receive, send):
    """Serve's proxy when the replica has died: it returns without a word."""


def its_own(status):
    async def answer(scope, receive, send):
        await PlainTextResponse("Traceback (most recent call last): secret", status)(scope, receive, send)

    return answer


@pytest.mark.parametrize(
    "app, status, kind",
    [
        (dead, 503, "stage_unavailable"),
        (its_own(500), 503, "stage_unavailable"),
        (its_own(503), 503, "stage_unavailable"),
        (its_own(404), 404, "not_found"),
    ],
)
def test_what_the_proxy_answers_by_itself_has_a_cause_and_a_trace(tmp_path, app, status, kind):
    proxy = Proxy(tmp_path, app)
    answer = proxy.get("/prefix/api/generate", b3=f"{T}-{S}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind) and "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)
    [[span]] = proxy.kept()
    assert answer.headers["x-trace-id"] == span["traceId"] == T and span["parentId"] == S
    assert span["localEndpoint"]["serviceName"] == "cosyvoice3-api" and span["kind"] == "SERVER"
    assert span["name"] == "GET /api/generate" and span["tags"]["http.status_code"] == str(status)
    assert span["tags"]["error.type"] == kind and span["tags"]["sampling.reason"] == "error"
    assert proxy.door.answered_here == 1


async def dies_over_its_answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-trace-id", T.encode())]})
    await send({"type": "http.response.body", "body": b"half of", "more_body": True})


async def the_proxy_fails(scope, receive, send):
    raise RuntimeError("secret")


def test_an_answer_that_breaks_off_has_a_trace(tmp_path):
    proxy, sent = Proxy(tmp_path, dies_over_its_answer), []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message["type"])

    asyncio.run(
        proxy.door(
            {"type": "http", "path": ROUTE, "method": "POST", "headers": [(b"b3", f"{T}-{S}".encode())]}, receive, send
        )
    )
    [[span]] = proxy.kept()
    assert span["traceId"] == T and span["tags"]["error"].startswith("cosyvoice3-api was lost")
    assert sent == ["http.response.start", "http.response.body"], "nothing is put into the middle of an answer"


class LosesReplicas:
    """Serve's proxy, the first of whose replicas die with the request in hand; the next one answers with its body."""

    def __init__(self, deaths=1, reads=True):
        self.deaths, self.reads = deaths, reads
        self.waited = []

    async def __call__(self, scope, receive, send):
        self.waited.append(arrival.of(scope).waited_s)
        body = b""
        while self.reads:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        if len(self.waited) > self.deaths:
            await PlainTextResponse(body, headers={"X-Trace-Id": T})(scope, receive, send)


def ask(door, method="POST", path=ROUTE, body=(b"one ", b"two ", b"three")):
    """Send a request in parts, each of them late; returns the answer's status and body."""
    parts, sent = list(body), []

    async def receive():
        await asyncio.sleep(0.03)  # longer than the proxy waits for parts that it sends ahead
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)} if parts else await gone()

    async def gone():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(door({"type": "http", "path": path, "method": method, "headers": []}, receive, send))
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def test_a_request_that_was_lost_with_its_replica_goes_to_another_one(tmp_path):
    app = LosesReplicas()
    proxy = Proxy(tmp_path, app)
    assert ask(proxy.door) == (200, b"one two three")
    first, second = app.waited
    assert first == 0 and second > 0.09, "the ingress is told how much of the deadline is gone"
    assert proxy.kept() == [] and (proxy.door.repeated, proxy.door.answered_here) == (1, 0)


def test_a_body_that_was_not_read_yet_goes_along(tmp_path):
    proxy = Proxy(tmp_path, LosesReplicas(reads=False))
    assert ask(proxy.door)[0] == 200 and proxy.door.repeated == 1


def test_it_is_tried_once_more_and_not_for_ever(tmp_path):
    app = LosesReplicas(deaths=9)
    proxy = Proxy(tmp_path, app)
    assert ask(proxy.door)[0] == 503 and len(app.waited) == 2 and len(proxy.kept()) == 1


@pytest.mark.parametrize(
    "method, path", [("POST", "/v1/audio/voices"), ("DELETE", "/v1/audio/voices/a"), ("POST", "/x")]
)
def test_what_may_leave_something_behind_is_sent_once(tmp_path, method, path):
    app = LosesReplicas()
    assert ask(Proxy(tmp_path, app).door, method, path)[0] == 503 and len(app.waited) == 1


def test_a_body_too_large_to_keep_is_sent_once(tmp_path, monkeypatch):
    monkeypatch.setattr("deployments.ingress.repeatable_body.MOST_BYTES", 10)
    app = LosesReplicas()
    assert ask(Proxy(tmp_path, app).door)[0] == 503 and len(app.waited) == 1


def test_what_serve_refuses_is_not_tried_again(tmp_path):
    asked = []

    async def no_replica(scope, receive, send):
        asked.append(1)
        await its_own(503)(scope, receive, send)

    assert Proxy(tmp_path, no_replica).get().status_code == 503 and len(asked) == 1


def hangs(announce=None, answers_after=None):
    """Serve's proxy while a replica says nothing; it cancels the call when the client leaves, as Serve does."""

    async def app(scope, receive, send):
        if announce:
            await send({"type": DEADLINE, "deadline_s": announce})
        reading = asyncio.ensure_future(_until_it_leaves(receive))
        await asyncio.wait([reading], timeout=answers_after)
        if not reading.done():
            await PlainTextResponse("late", headers={"X-Trace-Id": T})(scope, receive, send)
        reading.cancel()

    return app


async def _until_it_leaves(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


def test_a_replica_that_says_nothing_is_given_up_after_the_deadline(tmp_path):
    proxy = Proxy(tmp_path, hangs(), deadline_s=0.1)
    began = time.monotonic()
    status, body = ask(proxy.door)
    assert 0.8 < time.monotonic() - began < 1.1
    assert (status, json.loads(body)["error"]["type"]) == (504, "deadline_exceeded")
    [[span]] = proxy.kept()
    assert span["tags"]["error"].startswith("cosyvoice3-api gave no answer")
    assert span["tags"]["error.service"] == "cosyvoice3-api" and proxy.door.repeated == 0


def test_the_ingress_may_take_longer_where_it_says_so(tmp_path):
    proxy = Proxy(tmp_path, hangs(announce=5, answers_after=1.2), deadline_s=0.1)
    assert ask(proxy.door) == (200, b"late") and proxy.kept() == []


def test_another_applications_path_has_no_deadline_of_ours(tmp_path):
    proxy = Proxy(tmp_path, hangs(answers_after=1.2), deadline_s=0.1)
    assert ask(proxy.door, path="/others")[0] == 200


def test_a_stream_that_has_begun_is_the_ingresss(tmp_path):
    async def streams(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-trace-id", T.encode())]})
        await hangs(answers_after=1.2)(scope, receive, lambda message: asyncio.sleep(0))
        await send({"type": "http.response.body", "body": b"end"})

    assert ask(Proxy(tmp_path, streams, deadline_s=0.1).door) == (200, b"end")


@pytest.mark.parametrize("behind_our_proxy", [True, False])
def test_another_deadline_is_told_to_a_proxy_that_understands(tmp_path, behind_our_proxy):
    async def long_form(scope, receive, send):
        await scope["state"]["context"].extend_deadline(600)
        await fine(scope, receive, send)

    ingress, sent = Ingress(tmp_path, long_form), []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": ROUTE, "method": "POST", "headers": []}
    asyncio.run(ingress.app(arrival.put(scope, Arrival("", time.time_ns())) if behind_our_proxy else scope, None, send))
    told = [message for message in sent if message["type"] == DEADLINE]
    assert told == ([{"type": DEADLINE, "deadline_s": 600}] if behind_our_proxy else [])


def test_the_trace_of_a_second_try_tells_of_the_first_one(tmp_path):
    ingress = Ingress(tmp_path, fine, ratio=1.0)

    async def after_a_loss(scope, receive, send):
        lost_s, waited_s = 1.5, 2.0  # with the lost replica, and for another one
        came = Arrival("", time.time_ns() - int((lost_s + waited_s) * 1e9), lost_s)
        await ingress.app(arrival.put(scope, came), receive, send)

    door = Ingress.get.__get__(type("Door", (), {"app": staticmethod(after_a_loss)})())
    assert door().status_code == 200
    [spans] = ingress.kept()
    root, lost = sorted(spans, key=lambda span: "parentId" in span)
    assert root["duration"] > 3_400_000, "it begins when the request came to the proxy"
    assert float(root["tags"]["proxy.wait_ms"]) >= 3500
    assert lost["duration"] > 3_400_000, "the try lasts until another replica has the request"
    assert "kind" not in lost, "the dependency graph has no call of the ingress to itself"
    assert lost["name"] == root["name"] and lost["parentId"] == root["id"]
    assert lost["tags"]["error"].startswith("cosyvoice3-api was lost") and "error" not in root["tags"]
    assert lost["tags"]["error.service"] == "cosyvoice3-api" and lost["tags"]["error.type"] == "stage_unavailable"


def test_a_request_whose_deadline_went_by_with_a_lost_replica_asks_no_stage(tmp_path):
    ingress = Ingress(tmp_path, its_own(200), ratio=0.0)

    async def after_a_loss(scope, receive, send):
        came = Arrival("", time.time_ns() - 5_500_000_000, waited_s=5.5)
        await ingress.app(arrival.put(scope, came), receive, send)

    answer = Ingress.get.__get__(type("Door", (), {"app": staticmethod(after_a_loss)})())()
    assert (answer.status_code, answer.headers["x-error-service"]) == (504, "cosyvoice3-api")
    [[root, _]] = ingress.kept()
    assert root["tags"]["error"].startswith("cosyvoice3-api gave no answer")


def test_a_defect_of_the_proxy_is_answered_and_not_quoted(tmp_path, caplog):
    proxy = Proxy(tmp_path, the_proxy_fails)
    assert proxy.get().status_code == 503 and len(proxy.kept()) == 1
    assert "builtins.RuntimeError at " in caplog.text and "secret" not in caplog.text


def test_the_ingresss_answer_passes_untouched(tmp_path):
    async def ingress(scope, receive, send):
        await PlainTextResponse("no", 503, {"X-Trace-Id": T})(scope, receive, send)

    proxy = Proxy(tmp_path, ingress)
    assert proxy.get().text == "no" and proxy.kept() == [] and proxy.door.answered_here == 0


def test_another_applications_answer_passes_untouched(tmp_path):
    proxy = Proxy(tmp_path, its_own(200))
    assert proxy.get().status_code == 200 and proxy.kept() == []


def test_a_client_that_left_is_the_ingresss_to_tell(tmp_path):
    async def left(scope, receive, send):
        assert (await receive())["type"] == "http.disconnect"

    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    proxy = Proxy(tmp_path, left)
    asyncio.run(proxy.door({"type": "http", "path": ROUTE, "method": "GET", "headers": []}, receive, send))
    assert sent == [] and proxy.door.answered_here == 0


def test_headers_that_steer_serve_stop_at_the_door(tmp_path):
    seen = []

    async def ingress(scope, receive, send):
        seen.extend(name for name, _ in scope["headers"])
        await PlainTextResponse("yes", headers={"X-Trace-Id": T})(scope, receive, send)

    Proxy(tmp_path, ingress).get(
        **{
            "X-Request-ID": "a",
            "X-Request-Timeout-Seconds": "1",
            "X-Request-Disconnect-Disabled": "?1",
            "serve_multiplexed_model_id": "m",
            "X-Session-Id": "s",
            "X-User-Id": "alice",
            "b3": f"{T}-{S}-1",
        }
    )
    assert {b"x-user-id", b"b3"} <= set(seen)
    assert not any(word in name for name in seen for word in (b"request", b"session", b"multiplexed"))


def test_switched_off_live_a_request_has_an_id_and_no_trace_and_is_counted(tmp_path):
    ingress = Ingress(tmp_path, failing, ratio=1.0)
    ingress.keeper.reconfigure(LiveTracing(tracing=False))
    answer = ingress.get(b3=f"{T}-{S}-1")
    assert answer.headers["x-trace-id"] == T and "x-trace-url" not in answer.headers
    assert ingress.keeper.counters()["untraced"] == 1
    ingress.keeper.reconfigure(LiveTracing())
    on = ingress.get()
    assert [spans[0]["traceId"] for spans in ingress.kept()] == [on.headers["x-trace-id"]]
    assert ingress.keeper.counters()["untraced"] == 1


def test_the_ratio_changes_live_and_back(tmp_path):
    ingress = Ingress(tmp_path, fine, ratio=1.0)
    ingress.keeper.reconfigure(LiveTracing(sampling_ratio=0.0))
    assert "x-trace-url" not in ingress.get().headers
    ingress.keeper.reconfigure(LiveTracing())
    assert "x-trace-url" in ingress.get().headers
    counters = ingress.keeper.counters()
    assert counters["kept_ratio"] == counters["dropped_ratio"] == 1


def test_a_live_ratio_beside_rules_of_ones_own_is_refused(tmp_path):
    ingress = Ingress(tmp_path, fine, rules=(Rule(type="probabilistic", reason="everything"),))
    with pytest.raises(ValueError, match="the ratio of the rule of type `probabilistic`"):
        ingress.keeper.reconfigure(LiveTracing(sampling_ratio=0.5))
