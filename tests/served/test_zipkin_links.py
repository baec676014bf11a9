"""Every search that our links ask for, opened in Zipkin's own page in a real browser: it shows exactly its traces.

Links of the doctor and of the alerts are searches. The page, `say` and `demo` link to one trace, by its id.
"""

from __future__ import annotations

import re
import time
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
import yaml
from playwright.sync_api import TimeoutError

from cluster import demo, zipkin
from cluster.doctor.evidence import Evidence
from cluster.doctor.examination import examine
from cluster.doctor.finding import Finding
from cluster.doctor.window import Window
from cluster.doctor.zipkin_reader import ZipkinReader
from cluster.monitoring import rules
from cluster.state import State, boot_id
from tests.helpers.browser import chromium
from tests.helpers.doctoring import ALICE, BEGIN, BOB, LENGTH, many, narrow, spans
from tracing import vocabulary

DAYS_AWAY_S = 20 * 86_400  #: other modules put the same kind of traces into the same Zipkin
BEGIN_S = BEGIN - DAYS_AWAY_S
END_MS = round((BEGIN_S + LENGTH) * 1000)
SLOW = {vocabulary.GENERATE_MEL: {vocabulary.BATCH_WAIT_MS: 9000, vocabulary.COMPUTE_MS: 100, "ms": 9100}}


def action(name: str, at: float, **tags: str) -> dict:
    return {
        "traceId": f"{0xACED00000000 + round(at):032x}",
        "id": f"{0xACED00000000 + round(at):016x}",
        "name": name.lower(),
        "timestamp": round((BEGIN + at) * 1e6),
        "duration": 5,
        "localEndpoint": {"serviceName": vocabulary.WATCHDOG},
        "tags": {f"watchdog.{key}": value for key, value in tags.items()},
    }


def traffic() -> list[list[dict]]:
    """Something for every kind of finding."""
    return [
        *many(30, stages=SLOW, ms=12_000),
        *many(60),
        *many(12, dialect="sichuan"),
        *narrow(25, user=BOB),
        *many(25, status=400, error="input_validation", code="text_empty"),
        *many(20, status=401, error="not_authorized", code="key_missing", dialect=None),
        *many(80, dialect="sichuan", status=500, error="internal", code="broken_voice", failing=vocabulary.VOCODE_WAV),
        *many(5, lost=vocabulary.GENERATE_MEL),
        *many(4, lost=vocabulary.GENERATE_MEL, status=503, error="stage_unavailable"),
        *many(8, user=ALICE, **{vocabulary.REQUEST_DIALECT_SOURCE: "key"}),
        *many(9, **{vocabulary.REQUEST_FALLBACK: "true"}),
        *many(3, status=499, error="cancelled"),
        *many(
            3,
            status=503,
            error="overloaded",
            code="too_many_sessions",
            dialect=None,
            **{vocabulary.SESSION_EVENT: "refused"},
        ),
        *many(8, **{vocabulary.STREAM_CONTINUOUS: "false", vocabulary.STREAM_UNDERRUN_MS: "400"}),
        [action("CHECK_FAILED", 100, cause="canary_failed", service="tts-service")],
        [action("CHECK_FAILED", 200, cause="canary_failed", service="tts-service")],
        [action("TRAFFIC_SWITCHED", 300, cause="canary_failed", line="fallback")],
        [action("NODE_LOST", 400, **{"cause": "silent", "service": "ray", "node.address": "10.0.0.12"})],
        [spans()[0]],  # alone: its stages are missing
    ]


@pytest.fixture(scope="module")
def server(zipkin) -> str:
    moved = DAYS_AWAY_S * 1_000_000
    everything = [span | {"timestamp": span["timestamp"] - moved} for trace in traffic() for span in trace]
    httpx.post(f"{zipkin.url}/api/v2/spans", json=everything, trust_env=False).raise_for_status()
    until = time.monotonic() + 10
    while len(search(zipkin.url, {"serviceName": vocabulary.WATCHDOG})) < 4:
        assert time.monotonic() < until, "Zipkin stores nothing"
        time.sleep(0.1)
    return zipkin.url


@pytest.fixture(scope="module")
def findings(server) -> list[Finding]:
    window = Window(BEGIN_S, BEGIN_S + LENGTH, server)
    return examine(Evidence(window, ZipkinReader(server).read(window)))


@pytest.fixture(scope="module")
def page():
    with chromium() as browser:
        yield browser.new_page(viewport={"width": 1400, "height": 900})


def search(url: str, query: dict) -> list[list[dict]]:
    asked = {"endTs": END_MS, "lookback": round(LENGTH * 1000), "limit": 1000} | query
    return httpx.get(f"{url}/api/v2/traces", params=asked, trust_env=False).raise_for_status().json()


def shown(page, link: str) -> set[str]:
    """The ids of the traces that the page lists."""
    page.goto("about:blank")
    page.goto(link)
    return listed(page)


def listed(page) -> set[str]:
    """The same for the search that the page shows."""
    page.wait_for_load_state("networkidle")
    try:
        page.get_by_text("Start Time").first.wait_for(timeout=20_000)  # a column of the table
    except TimeoutError as failure:
        raise AssertionError(f"{page.url} shows: {page.inner_text('body')[-500:]}") from failure
    rows = page.locator("a[href*='/zipkin/traces/']").evaluate_all("links => links.map(link => link.href)")
    return {row.rpartition("/")[2].partition("?")[0] for row in rows}


def asked_for(url: str, link: str) -> set[str]:
    """The ids that Zipkin's API finds by the link's own search."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    query |= {"lookback": query.pop("millis")}
    return {trace[0]["traceId"] for trace in search(url, query)}


@pytest.mark.proof
def test_every_link_of_the_doctor_shows_exactly_what_its_search_finds(page, server, findings):
    links = {finding.summary: finding.traces for finding in findings if finding.traces}
    assert {finding.kind for finding in findings if finding.traces} == {
        "errors",
        "batching",
        "queue",
        "bottleneck",
        "streams",
        "dialect",
        "fallback",
        "watchdog",
        "traces",
    }
    for summary, link in links.items():
        expected = asked_for(server, link)
        assert expected and shown(page, link) == expected, (summary, link)


def test_an_error_findings_link_finds_its_requests_and_no_others(server, findings):
    errors = [finding for finding in findings if finding.kind == "errors" and finding.traces]
    assert len(errors) >= 5
    for finding in errors:
        assert len(asked_for(server, finding.traces)) == finding.figures["count"], finding.summary


@pytest.mark.proof
def test_every_link_of_the_alerts_shows_exactly_what_its_search_finds(page, server):
    labels = {"application": "cosygraph", "dialect": "sichuan", "stage": "GENERATE_MEL", "deployment": "tts-service"}
    for rule in yaml.safe_load(rules())["groups"][0]["rules"]:
        link = expanded(rule["annotations"]["traces"], server, labels)
        # The window of a rule is minutes, and ends now; this one is where the traces are.
        link = re.sub(r"millis=\d+", f"millis={round(LENGTH * 1000)}", link)
        expected = asked_for(server, link)
        assert expected and shown(page, link) == expected, (rule["alert"], link)


def expanded(template: str, server: str, labels: dict[str, str]) -> str:
    """An annotation as Prometheus fills it in."""
    template = re.sub(r"{{ with query .*? }}.*?{{ end }}", str(END_MS), template)
    template = re.sub(r"{{ \$labels\.(\w+) \| toLower }}", lambda name: labels[name[1]].lower(), template)
    template = re.sub(r"{{ \$labels\.(\w+) }}", lambda name: labels[name[1]], template)
    template = re.sub(r"{{ (\$externalLabels|\.ExternalLabels)\.zipkin }}", server, template)
    assert "{{" not in template, template
    return template.replace("http://127.0.0.1:9411", server)


@pytest.mark.parametrize(
    "typed",
    [
        "request.dialect=sichuan",
        "http.status_code=400 and error.type=input_validation",
        "error.type=internal and request.dialect=sichuan and error",
    ],
)
def test_a_search_by_hand_finds_the_same(page, server, typed):
    """In the search bar, as somebody types it who has no link."""
    page.goto("about:blank")
    begin_ms = END_MS - round(LENGTH * 1000)  # a range of times: any other is moved to now when the query is run
    page.goto(
        f"{server}/zipkin/?serviceName={vocabulary.INGRESS}&lookback=range&startTs={begin_ms}&endTs={END_MS}&limit=999"
    )
    page.get_by_text("Start Time").first.wait_for(timeout=30_000)
    page.get_by_test_id("add-button").click()
    page.keyboard.type(f"tagQuery={typed}")
    page.keyboard.press("Enter")
    with page.expect_response(lambda response: "/api/v2/traces?" in response.url) as answer:
        page.get_by_role("button", name="Run Query").click()
    assert quote(typed.partition("=")[0]) in answer.value.url
    page.wait_for_timeout(1000)  # the table is drawn anew
    expected = {
        trace[0]["traceId"] for trace in search(server, {"serviceName": vocabulary.INGRESS, "annotationQuery": typed})
    }
    assert expected and listed(page) == expected


def test_the_links_of_up_and_demo_open(page, server):
    stored = search(server, {"serviceName": vocabulary.INGRESS, "limit": 1})[0][0]["traceId"]
    state = State("now", boot_id(), 8000, zipkin=zipkin.Zipkin(server))
    trace, graph = [line.split()[-1] for line in demo.links(state, stored).splitlines()[:2]]
    page.goto(trace)
    page.get_by_text(vocabulary.INGRESS).first.wait_for(timeout=30_000)
    assert stored in page.content()
    page.goto(graph)
    page.get_by_role("button", name="Run Query").wait_for(timeout=30_000)
