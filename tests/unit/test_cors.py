"""Cross-origin requests: off by default; a preflight needs no key and leaves no trace, allowed or not."""

import pytest
from pydantic import ValidationError
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.testclient import TestClient

from access.authentication import Authenticator
from access.authorization import AccessControl
from deployments.ingress import cors
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.settings import Cors, GraphConfig, Tracing
from speech.dialects import DIALECTS
from tracing import Tracer
from tracing.routes import Routes
from tracing.vocabulary import ROUTES

PAGE = "https://app.example.com"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, traceparent",
}


class Ingress:
    """An application of one line in the real middleware, which asks for keys; `recorder` counts its traces."""

    def __init__(self, folder, settings: Cors) -> None:
        async def app(scope, receive, send):
            kind = StreamingResponse(iter([b"a", b"b"])) if scope["path"] == "/v1/models" else PlainTextResponse("ok")
            await kind(scope, receive, send)

        self.recorder = TraceRecorder(Tracing(spans_file=folder / "spans"), DIALECTS)
        middleware = TracingMiddleware(
            app,
            Tracer("cosyvoice3-api"),
            self.recorder,
            Authenticator(None),
            routes=Routes(ROUTES),
            deadline_s=5,
            trace_url=lambda trace_id: None,
            access_control=AccessControl(required=True),
        )
        self.client = TestClient(cors.around(middleware, settings))

    def traces(self) -> int:
        counts = self.recorder.counters()
        return sum(n for name, n in counts.items() if name.startswith(("kept_", "dropped_")))


@pytest.mark.parametrize(
    "origins, status", [((), 400), ((PAGE,), 200), (("https://other.example.com",), 400), (("*",), 200)]
)
def test_a_preflight_is_answered_without_a_key_and_without_a_trace(tmp_path, origins, status):
    ingress = Ingress(tmp_path, Cors(allowed_origins=origins))
    answer = ingress.client.options("/api/generate", headers=PREFLIGHT | {"Origin": PAGE})
    assert answer.status_code == status and ingress.traces() == 0
    if status == 200:
        assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "traceparent" in answer.headers["access-control-allow-headers"]
        assert answer.headers["access-control-max-age"] == "600"
    else:
        assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_an_allowed_origin_reads_answers_and_errors(tmp_path):
    ingress = Ingress(tmp_path, Cors(allowed_origins=[PAGE]))
    for path, status in (("/health", 200), ("/v1/models", 401)):
        answer = ingress.client.get(path, headers={"Origin": PAGE})
        assert answer.status_code == status and answer.headers["access-control-allow-origin"] == PAGE
        assert "X-Trace-Id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
    assert ingress.traces() == 1, "the refused request; a good look at health is none"


def test_a_page_of_another_origin_reads_nothing_and_other_clients_notice_nothing(tmp_path):
    for settings in (Cors(), Cors(allowed_origins=[PAGE])):
        client = Ingress(tmp_path, settings).client
        for headers in ({"Origin": "https://other.example.com"}, {}):
            answer = client.get("/health", headers=headers)
            assert answer.status_code == 200 and answer.text == "ok"
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null", ""])
def test_what_is_no_origin_is_refused_with_an_example(origin):
    with pytest.raises(ValidationError, match="an origin has a scheme, a host.*https://app.example.com"):
        GraphConfig(cors={"allowed_origins": [origin]})


def test_it_is_off_by_default():
    assert GraphConfig().api().cors.allowed_origins == ()
