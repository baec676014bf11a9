"""Keys and the routes that they open; hosts that require keys; traces and logs of a refused request."""

import asyncio
import json
import pickle
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from starlette.responses import PlainTextResponse

from access import authorization
from access.authentication import Authenticator, Principal
from access.authorization import AccessControl
from access.keys import ROLES, digest
from access.required import is_loopback, keys_required
from access.settings import Access, CallerLimits
from cluster.ray_head import ROOT
from config.routes import OPEN
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.settings import GraphConfig, Tracing
from speech.dialects import DIALECTS
from speech.errors import NotAuthorized, RateLimited, RoleMissing, SpeechError
from tracing import Tracer
from tracing.routes import Routes
from tracing.vocabulary import ROUTES

KEY, BUSY = "cosygraph_of-alice", "cosygraph_of-bob"


def caller(*roles: str) -> Principal:
    return Principal(key="k", roles=frozenset(roles))


@pytest.mark.parametrize(
    "method, path, roles",
    [
        ("POST", "/api/generate", {"synthesize"}),
        ("POST", "/v1/audio/speech", {"synthesize"}),
        ("GET", "/v1/models", {"synthesize"}),
        ("POST", "/inference_zero_shot", {"synthesize"}),
        ("GET", "/v1/audio/voices", {"voices", "synthesize"}),
        ("GET", "/v1/audio/voices/voice_1", {"voices", "synthesize"}),
        ("POST", "/v1/audio/voices", {"voices"}),
        ("PATCH", "/v1/audio/voices/voice_1", {"voices"}),
        ("DELETE", "/v1/audio/voices/voice_1", {"voices"}),
        ("GET", "/v1/audio/voicesx", ROLES),
        ("GET", "/nothing", ROLES),
        ("GET", "/health/", ROLES),
        ("GET", "", ROLES),
        ("GET", "/HEALTH", ROLES),
    ],
)
def test_a_route_is_open_to_its_roles_and_admin_alone(method, path, roles):
    assert authorization.roles_for(method, path) == roles
    for role in ROLES:
        if role in roles or role == "admin":
            authorization.authorize(caller(role), method, path)
        else:
            with pytest.raises(RoleMissing) as refused:
                authorization.authorize(caller(role), method, path)
            assert refused.value.status == 403 and refused.value.code == "role_missing"
    with pytest.raises(NotAuthorized):
        authorization.authorize(Principal(trusted=True), method, path)


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json", "/api/dialects", "/"])
def test_probes_and_docs_need_no_key(path):
    authorization.authorize(Principal(), "GET", path)


def test_the_table_knows_every_route_there_is():
    assert [path for path in ROUTES if path not in OPEN and authorization.roles_for("GET", path) == ROLES] == []


def test_the_table_in_the_docs_is_the_one_in_force():
    lines = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith("| role |"))
    rows = [line.split("|")[1:4:2] for line in lines[start:] if line.startswith("| `")]
    rows = rows[: lines[start + 2 :].index("")]
    told = {
        path: role.strip()
        for paths, role in rows
        for path in paths.replace("`", "").replace(",", " ").split()
        if path.startswith("/")
    }
    assert told.pop("/v1/audio/voices") == "voices (GET: synthesize too)"
    assert len(told) > 8
    for path, role in told.items():
        roles = frozenset() if role == "none" else frozenset(role.split(" or "))
        assert authorization.roles_for("POST", path) == roles, path


@pytest.mark.parametrize(
    "refused, code", [(None, "key_missing"), ("unknown", "key_unknown"), ("expired", "key_expired")]
)
def test_a_refused_caller_is_told_why_and_how_to_do_it(refused, code):
    with pytest.raises(NotAuthorized) as caught:
        authorization.authorize(Principal(refused=refused), "POST", "/api/generate")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.status, error.type, error.code) == (401, "not_authorized", code)
    assert error.headers() == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize(
    "setting, host, keys, required",
    [
        ("auto", "127.0.0.1", 0, False),
        ("auto", "localhost", 0, False),
        ("auto", "::1", 3, False),
        ("auto", "127.8.8.8", 0, False),
        ("auto", "0.0.0.0", 1, True),
        ("auto", "::", 1, True),
        ("auto", "192.0.2.1", 1, True),
        ("auto", "example.org", 1, True),
        ("auto", None, 1, True),
        ("auto", "", 1, True),
        (True, "127.0.0.1", 1, True),
        (False, "0.0.0.0", 0, False),
        (False, None, 0, False),
    ],
)
def test_keys_are_required_beyond_loopback_and_where_it_is_said(setting, host, keys, required):
    assert keys_required(Access(required=setting), host, keys) is required


@pytest.mark.parametrize(
    "setting, host, says",
    [
        ("auto", "0.0.0.0", "listens on 0.0.0.0, which is open to the network"),
        ("auto", "", "can't be found out"),
        ("auto", None, "can't be found out"),
        (True, "127.0.0.1", "access.required is true"),
    ],
)
def test_it_does_not_start_open_to_the_network_without_keys(setting, host, says):
    with pytest.raises(ValueError, match="there are no keys: make a key with `python -m cluster key") as refused:
        keys_required(Access(required=setting), host, 0)
    assert says in str(refused.value)


def test_what_is_no_loopback_name_is_none():
    assert not is_loopback("localhost.example.org") and not is_loopback("127.0.0.1.example.org")


def test_there_is_one_key_file_in_either_place():
    assert GraphConfig(tracing={"keys_file": "a"}).api().keys_file == "a"
    assert GraphConfig(access={"keys_file": "a"}).keys_file == "a"
    assert GraphConfig(access={"keys_file": "a"}, tracing={"keys_file": "a"}).keys_file == "a"
    with pytest.raises(ValidationError, match="there is one key file"):
        GraphConfig(access={"keys_file": "a"}, tracing={"keys_file": "b"})


def test_the_limiter_is_deployed_where_there_may_be_limits():
    assert not GraphConfig().limits_callers
    assert GraphConfig(access={"keys_file": "a"}).limits_callers
    assert GraphConfig(access={"default_limits": {"concurrent": 3}}).limits_callers


@pytest.mark.parametrize("wrong", [{"required": "yes please"}, {"key_file": "x"}, {"default_limits": {"burst": 1}}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        GraphConfig(access=wrong)


class Ingress:
    """A gateway that asks for keys, around an app that answers when told to."""

    def __init__(self, folder: Path, **access) -> None:
        keys = folder / "keys.yaml"
        keys.write_text(
            f"keys:\n- {{name: alice, sha256: {digest(KEY)}, owner: Alice Liddell}}\n"
            f"- {{name: bob, sha256: {digest(BUSY)}, limits: {{requests_per_minute: 1, burst: 2, "
            "concurrent: 1}}\n"
        )
        self.file, secret = folder / "spans.jsonl", folder / "secret"
        secret.write_text("s" * 64)
        self.keeper = TraceRecorder(Tracing(spans_file=str(self.file), secret_file=str(secret)), DIALECTS)
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.fails = False
        self.entrance = AccessControl(**{"required": True} | access)
        self.app = TracingMiddleware(
            self._answer,
            Tracer("cosyvoice3-api"),
            self.keeper,
            Authenticator(str(keys)),
            routes=Routes(ROUTES),
            deadline_s=5,
            trace_url=lambda trace_id: None,
            access_control=self.entrance,
        )

    async def _answer(self, scope, receive, send) -> None:
        self.entered.set()
        await self.let_go.wait()
        if self.fails:
            raise RuntimeError("as told")
        await PlainTextResponse("fine")(scope, receive, send)

    async def ask(
        self, key: str | None = None, path: str = "/api/generate", client: str = "192.0.2.1"
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, client=(client, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await http.post(path, headers={"Authorization": f"Bearer {key}"} if key else {})

    def spans(self) -> list[dict]:
        self.keeper.close(5)
        return [trace[0] for trace in map(json.loads, self.file.read_text().splitlines())]


def test_a_request_without_a_key_ends_at_the_entrance_and_has_its_trace(tmp_path):
    ingress = Ingress(tmp_path)

    async def main():
        answers = [await ingress.ask(key) for key in (None, "cosygraph_wrong", KEY)]
        assert [answer.status_code for answer in answers] == [401, 401, 200]
        assert answers[0].headers["www-authenticate"] == "Bearer"
        assert answers[0].json()["error"]["type"] == "not_authorized"
        assert (await ingress.ask(path="/health")).status_code == 200
        assert (await ingress.ask(path="/whatever")).status_code == 401
        return answers[0].headers["x-trace-id"]

    trace_id = asyncio.run(main())
    spans = ingress.spans()
    [span] = [span for span in spans if span["traceId"] == trace_id]
    assert span["tags"] | {"sampling.adjusted_count": ""} == {
        "http.method": "POST",
        "http.route": "/api/generate",
        "http.status_code": "401",
        "error": "not_authorized: key_missing",
        "error.type": "not_authorized",
        "error.code": "key_missing",
        "sampling.reason": "error",
        "sampling.adjusted_count": "",
    }
    assert b"cosygraph_" not in ingress.file.read_bytes()


def test_user_hash_is_the_owners(tmp_path):
    ingress = Ingress(tmp_path)
    alice, bob = (ingress.keeper.user_hash(Principal(user=user)) for user in ("Alice Liddell", "bob"))

    async def main():
        for key in (KEY, BUSY, BUSY, BUSY):
            await ingress.ask(key, path="/v1/audio/voices" if key == KEY else "/api/generate")

    asyncio.run(main())
    tags = {span["tags"]["http.status_code"]: span["tags"] for span in ingress.spans()}
    assert tags["403"]["user.hash"] == alice and tags["429"]["user.hash"] == bob, "its name where it has no owner"


def test_a_caller_over_its_rate_gets_429_and_the_others_do_not(tmp_path):
    ingress = Ingress(tmp_path)

    async def main():
        answers = [await ingress.ask(BUSY) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert 55 <= int(answers[-1].headers["retry-after"]) <= 60
        assert answers[-1].json()["error"]["type"] == "rate_limited"
        assert [(await ingress.ask(KEY)).status_code for _ in range(4)] == [200] * 4
        assert (await ingress.ask(BUSY, "/health")).status_code == 200, "what is open counts against nothing"

    asyncio.run(main())
    tags = next(span["tags"] for span in ingress.spans() if span["tags"].get("http.status_code") == "429")
    assert tags["error"] == (
        "This caller's limit of 1 requests a minute is reached; try again after the time in Retry-After."
    )


@pytest.mark.parametrize("ends", ["answered", "cancelled", "failed"])
def test_a_place_is_given_back_however_the_request_ends(tmp_path, ends):
    ingress = Ingress(tmp_path)

    async def main():
        ingress.let_go.clear()
        first = asyncio.create_task(ingress.ask(BUSY))
        await ingress.entered.wait()
        busy = await ingress.ask(BUSY)
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, "too_many_at_once")
        if ends == "cancelled":
            first.cancel()
        ingress.fails = ends == "failed"
        ingress.let_go.set()
        await asyncio.wait([first])
        assert ends == "cancelled" or first.result().status_code == (500 if ingress.fails else 200)
        assert ingress.entrance.counters()["access_under_way"] == 0
        ingress.fails = False
        assert (await ingress.ask(BUSY)).status_code == 200

    asyncio.run(main())


def test_default_limits_are_each_callers_own(tmp_path):
    ingress = Ingress(tmp_path, required=False, default_limits=CallerLimits(requests_per_minute=1, burst=1))

    async def main():
        async def statuses(*args, **kwargs):
            return [(await ingress.ask(*args, **kwargs)).status_code for _ in range(2)]

        assert await statuses(KEY) == [200, 429]
        assert await statuses(BUSY) == [200, 200], "which has limits of its own"
        assert await statuses() == [200, 429] and await statuses(client="192.0.2.2") == [200, 429]

    asyncio.run(main())


@pytest.mark.parametrize("error", [NotAuthorized("m", code="c"), RoleMissing("m"), RateLimited("m", retry_after_s=3)])
def test_errors_travel_whole(error: SpeechError):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.headers(), again.body()) == (type(error), error.headers(), error.body())
