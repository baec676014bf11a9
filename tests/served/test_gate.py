"""The gate before Zipkin: which requests pass, for which keys, and what the audit log says."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import httpx
import pytest

from cluster.zipkin_proxy.auth import key_in
from cluster.zipkin_proxy.configuration import LONGEST_LOOKBACK_MS, MOST_TRACES, ProxyOptions, fill, up_to
from tests.helpers.gating import CANARY, CLIENT, FRIEND, NEXT, OTHER, SERVICE, TRACE, TRACES, Place, wait_until


@pytest.fixture(scope="module")
def place(start_gate) -> Place:
    return start_gate(origins=(FRIEND,), rate=1000)


READABLE = [
    "/zipkin/",
    "/zipkin/config.json",
    "/zipkin/dependency",
    f"/zipkin/traces/{TRACE}",
    "/zipkin/favicon.ico",
    "/api/v2/services",
    f"/api/v2/spans?serviceName={SERVICE}",
    f"/api/v2/remoteServices?serviceName={SERVICE}",
    f"/api/v2/traces?serviceName={SERVICE}&limit=5",
    f"/api/v2/trace/{TRACE}",
    f"/api/v2/traceMany?traceIds={TRACE},{NEXT}",
    "/api/v2/dependencies?endTs=4102444800000&lookback=86400000",
    "/api/v2/autocompleteKeys",
    "/api/v2/autocompleteValues?key=stage",
    "/zipkin/api/v2/services",
    f"/zipkin/api/v2/trace/{TRACE}",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", READABLE)
def test_what_is_for_reading_needs_a_key(place, path, method):
    for key in (place.all, place.services):
        answer = place.get(path, key, method)
        assert answer.status_code == 200, answer.text
    assert place.get(path, method=method).status_code == 401
    assert place.get(path, "cosygraph_made_up", method).status_code == 401
    assert place.get(path, place.nothing, method).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/info",
        "/metrics",
        "/prometheus",
        "/actuator",
        "/actuator/health",
        "/actuator/env",
        "/internal/health",
        "/api/v2",
        "/api/v1/spans",
        "/api/v2/trace/",
        "/api/v2/trace/xyz",
        "/api/v2/traces/",
        "/api/v2/../../metrics",
        "/zipkin/../metrics",
        "/zipkin/static/../../metrics",
        "/zipkin/api/v2/..%2f..%2fmetrics",
        "/zipkin//api/v2/other",
        "/zipkin/test",
        "//metrics",
        "/%6detrics",
        "/docs/",
        "/_auth",
        "/_said",
        "/_refused",
        "/auth",
        "/nginx.conf",
        "/audit.jsonl",
        "/zipkin/static/js/%2e%2e",
    ],
)
def test_all_other_paths_are_not_there(place, path):
    raw = httpx.URL(f"{place.gate.own_url}/").copy_with(raw_path=path.encode())
    for key in (place.all, place.services):
        answer = CLIENT.get(raw, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code in (400, 404), (path, answer.status_code)
        assert "jvm" not in answer.text and '"status"' not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/spans",
        "/zipkin/api/v2/spans",
        "/api/v1/spans",
        "/api/v2/traces",
        "/zipkin/",
        "/metrics",
        "/actuator/loggers/ROOT",
    ],
)
def test_nothing_is_written(place, method, path):
    for key in (place.all, place.services, None):
        assert place.get(path, key, method).status_code in (401, 404, 405)
    assert place.get(path, place.all, method, content=b"[]").status_code in (404, 405)


def test_a_span_does_not_get_in(place):
    span = {"traceId": "ab" * 16, "id": "ab" * 8, "name": "forged", "localEndpoint": {"serviceName": "forged"}}
    assert place.get("/api/v2/spans", place.all, "POST", json=[span]).status_code == 405
    assert place.get("/api/v2/spans", place.all, "POST", json=[span] * 100).status_code == 413
    overridden = place.get("/api/v2/spans?serviceName=x", place.all, headers={"X-HTTP-Method-Override": "POST"})
    assert overridden.status_code == 200
    time.sleep(0.3)
    assert "forged" not in place.get("/api/v2/services", place.all).json()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/zipkin/", "/api/v2/services", "/metrics"])
def test_a_body_is_never_taken_for_another_request(place, path, method):
    hidden = b"GET /api/v2/autocompleteKeys HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    for framing in (
        f"Content-Length: {len(hidden)}\r\n\r\n".encode() + hidden,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden),
    ):
        with socket.create_connection(("127.0.0.1", place.gate.port)) as connection:
            connection.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Authorization: Bearer {place.all}\r\n".encode()
                + framing
            )
            said = b"".join(iter(lambda: connection.recv(65536), b""))
        assert said.count(b"HTTP/1.1 ") == 1 and said[9:12] in (b"200", b"404", b"405")
        # What is asked next gets its own answer: no other one waits on the connection behind the gate.
        for _ in range(3):
            assert SERVICE in place.get("/api/v2/services", place.all).json()


@pytest.mark.parametrize(
    "query, found",
    [
        ("limit=7", 7),
        ("limit=0007", 7),
        ("", 10),
        (f"limit={MOST_TRACES}", MOST_TRACES),
        (f"limit={MOST_TRACES + 1}", MOST_TRACES),
        ("limit=99999", MOST_TRACES),
        ("limit=99999999999999", MOST_TRACES),
        ("limit=-1", MOST_TRACES),
        ("LIMIT=99999", MOST_TRACES),
        ("limit=2&limit=99999", 2),
        ("%6cimit=99999", 10),
        ("limit=3;limit=99999", MOST_TRACES),
        ("limit=99999%20", MOST_TRACES),
        (f"limit=9&serviceName={SERVICE}%26limit=99999", 0),
    ],
)
def test_a_search_finds_no_more_than_the_cap(place, query, found):
    for key in (place.all, place.services):
        assert len(place.get(f"/api/v2/traces?{query}", key).json()) == found
    assert len(CLIENT.get(f"{place.zipkin}/api/v2/traces?limit=99999").json()) >= TRACES


@pytest.mark.parametrize("most", [1, 9, 10, 200, 2678])
def test_a_cap_as_a_pattern(most):
    pattern = re.compile(f"^0*(?:{up_to(most)})$")
    assert [number for number in range(most * 12) if pattern.match(str(number))] == list(range(most + 1))
    assert not pattern.match("") and not pattern.match("1a")


def test_a_search_goes_back_no_further_than_the_cap():
    assert f"default {LONGEST_LOOKBACK_MS};" in fill(ProxyOptions(), "http://127.0.0.1:1", 1)


def test_everything_is_seen_with_view_traces(place):
    [one, _] = place.get(f"/api/v2/trace/{TRACE}", place.all).json()
    assert one["tags"]["stage"] == f"{CANARY}stage" and one["annotations"]
    found = place.get(f"/api/v2/traces?annotationQuery=stage%3D{CANARY}stage&limit=3", place.all).json()
    assert len(found) == 3
    assert place.get("/api/v2/autocompleteKeys", place.all).json() == [], "our Zipkin has none"


def test_services_and_durations_are_seen_with_view_services_and_no_tag(place):
    one, other = sorted(place.get(f"/api/v2/trace/{TRACE}", place.services).json(), key=lambda span: "parentId" in span)
    assert one == {
        "traceId": TRACE,
        "id": f"{7:016x}",
        "kind": "SERVER",
        "name": "post /api/generate",
        "duration": 2000,
        "timestamp": one["timestamp"],
        "localEndpoint": {"serviceName": SERVICE},
    }
    assert other["remoteEndpoint"] == {"serviceName": OTHER} and other["parentId"] == one["id"]
    now = int(time.time() * 1000)
    found = place.get(f"/api/v2/dependencies?endTs={now}&lookback=86400000", place.services).json()
    assert found and all(set(link) == {"parent", "child", "callCount"} for link in found)
    for path in [
        *READABLE,
        "/api/v2/traces?limit=200",
        "/api/v2/autocompleteValues?key=error",
        "/api/v2/trace/ffff",
        f"/api/v2/traces?spanName={CANARY}",
        f"/api/v2/traces?minDuration={CANARY}",
    ]:
        answer = place.get(path, place.services)
        assert CANARY not in answer.text.replace(path, "") and CANARY not in str(answer.headers), path
        assert "192.0.2" not in answer.text and '"port"' not in answer.text


@pytest.mark.parametrize(
    "query",
    [
        f"annotationQuery=stage%3D{CANARY}stage",
        "annotationQuery=error",
        "ANNOTATIONQUERY=error",
        f"serviceName={SERVICE}&annotationQuery=error",
    ],
)
def test_what_may_not_be_seen_may_not_be_searched_by(place, query):
    answer = place.get(f"/api/v2/traces?{query}", place.services)
    assert answer.status_code == 403 and "view-traces" in answer.text


def test_a_browsers_password_is_a_key(place):
    ask = place.get("/zipkin/").headers["www-authenticate"]
    assert ask.startswith("Basic realm=")
    for user in ("", "anybody", "somebody else"):
        assert place.get("/api/v2/services", auth=(user, place.all)).status_code == 200
    assert place.get("/zipkin/", auth=("view-traces", "wrong")).status_code == 401
    assert place.get("/zipkin/", headers={"X-API-Key": place.all}).status_code == 401
    assert {key_in(text) for text in ("Basic !!", "Basic /w==", "Basic YQ==", "Digest x", "")} == {""}


def test_a_key_that_is_revoked_stops_working(place):
    key = place.keys.add("leaver", roles=["view-traces"])
    wait_until(lambda: place.get("/api/v2/services", key).status_code == 200)
    place.keys.revoke("leaver")
    began = time.monotonic()
    wait_until(lambda: place.get("/api/v2/services", key).status_code == 401)
    assert time.monotonic() - began < 2


def test_who_looked_at_what_is_written_down(place):
    place.get(f"/zipkin/api/v2/trace/{TRACE}?x=y", place.all)
    place.get("/api/v2/traces?serviceName=audited&limit=1", place.services)
    place.get("/metrics", place.all)
    place.get(f"/api/v2/services?q={CANARY}stranger")
    place.get("/api/v2/services?z=1", place.nothing)
    wait_until(lambda: place.audit()[-1]["query"] == "z=1")  # a line is written when the answer has left
    lines = place.audit()[-5:]
    fields = ("viewer", "scope", "path", "query", "trace", "status")
    assert [tuple(line[field] for field in fields) for line in lines] == [
        ("view-traces", "all", f"/zipkin/api/v2/trace/{TRACE}", "x=y", TRACE, 200),
        ("view-services", "services", "/api/v2/traces", "serviceName=audited&limit=1", "", 200),
        ("view-traces", "all", "/metrics", "", "", 404),
        ("", "", "/api/v2/services", "", "", 401),
        ("synthesize", "", "/api/v2/services", "z=1", "", 403),
    ]
    for line in lines:
        assert line["address"] == "127.0.0.1" and line["method"] == "GET" and line["at"][:2] == "20"
        assert 0 <= line["seconds"] < 30 and line["bytes"] > 0
    assert Path(place.gate.audit_log).stat().st_mode & 0o777 == 0o600


def test_keys_are_kept_nowhere(place):
    place.get("/api/v2/services", place.all)
    folder = Path(place.gate.audit_log).parent.parent
    for file in filter(Path.is_file, folder.rglob("*")):
        text = file.read_bytes()
        assert not [key for key in (place.all, place.services, place.nothing) if key.encode() in text], file


def test_other_pages_of_the_web_may_not_read_unless_they_are_named(place):
    strangers = ("https://evil.example", f"{FRIEND}.evil.example", FRIEND.replace("https", "http"), "null")
    for origin, allowed in ((FRIEND, FRIEND), *((stranger, None) for stranger in strangers)):
        asked = place.get(
            "/api/v2/services",
            method="OPTIONS",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "authorization",
            },
        )
        assert asked.status_code == (204 if allowed else 401)
        assert asked.headers.get("access-control-allow-headers") == ("Authorization" if allowed else None)
        for path in ("/api/v2/services", f"/api/v2/trace/{TRACE}", "/zipkin/config.json"):
            answer = place.get(path, place.all, headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
    # Zipkin itself, for whoever reaches its port
    answer = CLIENT.get(f"{place.zipkin}/api/v2/services", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_answers_are_not_kept_framed_or_guessed_at(place):
    for path, code in (("/api/v2/services", 200), (f"/api/v2/trace/{TRACE}", 200), ("/metrics", 404)):
        headers = place.get(path, place.all).headers
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"] and headers["server"] == "nginx"
        assert code == 404 or headers["cache-control"] == "no-store"


def test_a_request_has_limits(place):
    assert place.get("/zipkin/", place.all, headers={"X-Big": "x" * 9000}).status_code in (400, 431)
    assert place.get(f"/api/v2/traces?serviceName={'x' * 9000}", place.all).status_code == 414


def test_refusals_say_what_to_do(place):
    for answer, says in (
        (place.get("/zipkin/"), "A key is required"),
        (place.get("/x", place.all), "/zipkin/"),
        (place.get("/zipkin/", place.nothing), "view-traces"),
    ):
        assert says in answer.json()["error"]["message"]


@pytest.mark.proof
@pytest.mark.parametrize("role, sees", [("view-traces", True), ("view-services", False)])
def test_the_page_works_through_the_gate(place, browser, role, sees):
    key = place.all if sees else place.services
    context = browser.new_context(http_credentials={"username": "me", "password": key})
    page, said, answers = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("response", lambda answer: answers.append(answer))
    page.goto(f"{place.gate.own_url}/zipkin/traces/{TRACE}")
    page.get_by_text("post /api/generate", exact=False).first.wait_for(timeout=20_000)
    assert SERVICE in page.inner_text("body").lower()
    shown = page.content()
    page.goto(
        f"{place.gate.own_url}/zipkin/?serviceName={SERVICE}&lookback=15m&limit=10"
        f"&endTs={int(time.time() * 1000) + 60_000}"
    )
    page.get_by_text("post /api/generate", exact=False).first.wait_for(timeout=20_000)
    shown += page.content()
    page.goto(f"{place.gate.own_url}/zipkin/dependency")
    page.get_by_role("button", name="Run Query").click()
    page.wait_for_timeout(500)
    shown += page.content()
    api = [answer for answer in answers if "/api/v2/" in answer.url and answer.status == 200]
    assert {answer.url.partition("/api/v2/")[2].partition("?")[0] for answer in api} >= {
        f"trace/{TRACE}",
        "traces",
        "services",
        "spans",
        "dependencies",
    }
    assert [answer.url for answer in answers if answer.status >= 400 and answer.status != 401] == []
    # The page's libraries try `new Function` and have another way; everything else that it does is allowed.
    assert [text for text in said if "Content Security Policy" in text and "unsafe-eval" not in text] == []
    if not sees:
        assert CANARY not in shown
    context.close()
