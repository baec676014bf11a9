"""Zipkin's Elasticsearch storage on a real OpenSearch, and the dependency links that `cluster.links` computes."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import httpx
import pytest

from cluster import links, ports, zipkin
from cluster.cli_error import CliError
from cluster.ray_head import ROOT
from cluster.storage import Storage, prepare
from cluster.storage_elasticsearch import Server
from tests.helpers import jvm, keeping
from tracing import ExportSettings

pytestmark = pytest.mark.proof

DAY = date(2026, 3, 14)  # of the spans whose links are computed
MIDDAY = datetime(2026, 3, 14, 12, tzinfo=UTC)
KINDS = ("SERVER", "CLIENT", None, "PRODUCER", "CONSUMER")


@pytest.fixture(scope="module")
def opensearch(tmp_path_factory):
    node = jvm.OpenSearch(tmp_path_factory.mktemp("opensearch"))
    yield node
    node.stop()


class Zipkins:
    """Zipkins on one OpenSearch, one after the other."""

    def __init__(self, folder, url: str) -> None:
        self.folder, self.storage, self.said = folder, Storage.of("elasticsearch", url, {}), []
        self.started: list[zipkin.Zipkin] = []

    def start(self) -> str:
        server, missing = zipkin.find_or_start(
            ports.any_free(),
            self.folder / "zipkin.log",
            self.said.append,
            keeping.environment(),
            remember=self.started.append,
            storage=lambda: prepare(self.storage, self.folder, self.said.append),
        )
        assert server is not None, missing
        return server.url

    def stop(self) -> None:
        while self.started:
            keeping.stop(self.started.pop())


@pytest.fixture(scope="module")
def zipkins(tmp_path_factory, opensearch):
    zipkins = Zipkins(tmp_path_factory.mktemp("zipkins"), opensearch.url)
    yield zipkins
    zipkins.stop()


@pytest.fixture(scope="module")
def stored(zipkins, opensearch):
    """Zipkin's address after a restart, with traces in it that it was sent before."""
    traces = keeping.requests(200)
    url = zipkins.start()
    assert any(f"OpenSearch 2.19.3 answers at {opensearch.url}" in text for text in zipkins.said)
    keeping.export(ExportSettings(zipkin_url=url, spool_dir=zipkins.folder / "spool"), traces)
    keeping.assert_kept(url, traces)
    zipkins.stop()
    return zipkins.start(), traces


def test_traces_outlive_zipkin(stored):
    url, traces = stored
    keeping.assert_kept(url, traces)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def random_trace(chance: random.Random) -> list[dict]:
    """Spans of all kinds in a tree: shared and missing spans, remote endpoints, errors, services that repeat."""
    trace_id, start = f"{chance.getrandbits(127) + 1:032x}", ms(MIDDAY) * 1000 + chance.randint(0, 10**9)
    spans: list[dict] = []
    for number in range(chance.randint(1, 9)):
        span = {
            "traceId": trace_id,
            "id": f"{chance.getrandbits(63) + 1:016x}",
            "name": "work",
            "timestamp": start + number,
            "duration": 1000,
            "localEndpoint": {"serviceName": f"service-{chance.randint(1, 6)}"},
        }
        if kind := chance.choice(KINDS):
            span["kind"] = kind
        if chance.random() < 0.4:
            span["remoteEndpoint"] = {"serviceName": f"service-{chance.randint(1, 8)}"}
        if chance.random() < 0.2:
            span["tags"] = {"error": ""}
        if spans and chance.random() < 0.9:
            parent = chance.choice(spans)
            span["parentId"] = parent["id"]
            if parent.get("kind") == "CLIENT" and chance.random() < 0.5:  # the server's half of the same span
                span |= {"id": parent["id"], "kind": "SERVER", "shared": True}
                span.pop("parentId")
                if "parentId" in parent:
                    span["parentId"] = parent["parentId"]
        elif chance.random() < 0.3:  # a caller who reports to nobody we know
            span["parentId"] = f"{chance.getrandbits(63) + 1:016x}"
        spans.append(span)
    return spans


def our_traces() -> list[list[dict]]:
    """The graph's own, also below callers: one who reports to this Zipkin, and one who doesn't."""
    from tracing import Tracer, encode

    start = int(MIDDAY.timestamp()) * 10**9
    traces = [keeping.request(number, start_ns=start + number * 10**9) for number in range(1, 81)]
    for number in range(81, 101):
        call = Tracer("web-shop").client("POST", parent=None, remote_service="cosyvoice3-api", start_ns=start)
        ours = keeping.request(number, start_ns=start + 10**6, parent=call.context)
        traces.append(ours if number % 2 else encode(call.end(start + 10**10)) + ours)
    return traces


def test_links_are_those_that_memory_storage_computes(stored, opensearch, zipkin, monkeypatch):
    chance = random.Random(20260314)
    ours = our_traces()
    traces = ours + [random_trace(chance) for _ in range(400)]
    url, _ = stored
    for at in range(0, len(traces), 50):
        spans = [span for trace in traces[at : at + 50] for span in trace]
        for receiver in (url, zipkin.url):
            assert httpx.post(f"{receiver}/api/v2/spans", json=spans, timeout=60, trust_env=False).status_code == 202
        if at == 0:  # the index of that day is made by now; more must not pile up before it
            keeping.tree_is_there(url, traces[0])
    for trace in (traces[0], traces[-1]):
        keeping.tree_is_there(url, trace)
    end, whole_day = ms(MIDDAY) + 12 * 3_600_000 - 1, 86_400_000 - 1
    elsewhere, memory = keeping.Reader(url), keeping.Reader(zipkin.url)
    assert elsewhere.links(end, whole_day) == {}, "OpenSearch storage computes none by itself"

    # In pieces by the beginning of trace ids, and over many pages of the scroll.
    monkeypatch.setattr(links, "PIECE_SPANS", 300)
    monkeypatch.setattr(links, "PAGE_SPANS", 40)
    server = Server.of(opensearch.url)
    result = keeping.eventually(
        lambda: links.compute(server, DAY, lambda text: None), lambda result: result.traces == len(traces), within_s=90
    )
    expected = memory.links(end, whole_day)
    assert len(expected) > 40 and any(errors for _, errors in expected.values())
    assert elsewhere.links(end, whole_day) == expected
    below = [[span for span in trace if span["localEndpoint"]["serviceName"] != "web-shop"] for trace in ours]
    assert {pair: counts for pair, counts in expected.items() if pair[0] == "cosyvoice3-api"} == keeping.expected_links(
        below
    )
    assert expected["web-shop", "cosyvoice3-api"][0] == 10
    assert len(result.links) == len(expected)


def test_a_second_run_replaces_the_first(stored, opensearch):
    server = Server.of(opensearch.url)
    first = links.compute(server, DAY, lambda text: None)
    stale = {"parent": "long-gone", "child": "service-1", "callCount": 7}
    with server.client() as client:
        assert client.post(f"/{first.index}/_doc", params={"refresh": "true"}, json=stale).status_code == 201
    reader, end = keeping.Reader(stored[0]), ms(MIDDAY) + 12 * 3_600_000 - 1
    assert ("long-gone", "service-1") in reader.links(end, 86_399_999)
    again = links.compute(server, DAY, lambda text: None)
    assert again.links == first.links
    assert reader.links(end, 86_399_999) == {
        (link.parent, link.child): (link.calls, link.errors) for link in first.links
    }


def test_a_trace_over_midnight_belongs_to_the_day_it_began(stored, opensearch):
    url, _ = stored
    midnight = datetime(2026, 4, 2, tzinfo=UTC)
    late = keeping.request(1, start_ns=int(midnight.timestamp()) * 10**9 - 50 * 10**6)
    early = keeping.request(2, start_ns=int(midnight.timestamp()) * 10**9 + 10**6)
    assert httpx.post(f"{url}/api/v2/spans", json=late + early, trust_env=False).status_code == 202
    keeping.tree_is_there(url, late)
    keeping.tree_is_there(url, early)
    server = Server.of(opensearch.url)
    for day, trace in ((midnight.date() - timedelta(days=1), late), (midnight.date(), early)):
        result = keeping.eventually(
            lambda day=day: links.compute(server, day, lambda text: None), lambda result: result.spans == 5
        )
        assert result.traces == 1
        assert {
            (link.parent, link.child): (link.calls, link.errors) for link in result.links
        } == keeping.expected_links([trace])


def test_the_command_says_what_it_did(stored, opensearch):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "cluster", "links", "--storage-url", opensearch.url, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )

    answer = run("--day", "today")
    assert answer.returncode == 0, answer.stderr
    assert "cosyvoice3-api -> vocoder-service" in answer.stdout and "zipkin-dependency-" in answer.stdout
    _, traces = stored
    assert keeping.Reader(stored[0]).links() == keeping.expected_links(traces)
    answer = run("--day", "2001-01-01")
    assert answer.returncode == 1 and "no index zipkin-span-2001-01-01" in answer.stderr


def test_a_failing_linker_writes_nothing(opensearch, stored):
    class Broken:
        def __init__(self, say):
            pass

        def __enter__(self):
            return self

        def put(self, spans):
            raise CliError("Zipkin's linker ended with an error")

        def __exit__(self, *raised):
            pass

    server = Server.of(opensearch.url)
    with server.client() as client:
        before = client.get("/zipkin-dependency-*/_count").json()["count"]
        with pytest.raises(CliError, match="linker"):
            links.compute(server, DAY, lambda text: None, linker=Broken)
        assert client.get("/zipkin-dependency-*/_count").json()["count"] == before


def test_a_day_is_deleted_as_the_docs_say(opensearch, stored):
    recipe = re.search(r'curl -X DELETE "http://[^/]+/(\S+?)"', (ROOT / "docs" / "storage.md").read_text())[1]
    with Server.of(opensearch.url).client() as client:
        assert client.get(f"/zipkin-span-{DAY}/_count").json()["count"] > 0
        answer = client.delete("/" + re.sub(r"\d{4}-\d\d-\d\d", str(DAY), recipe))
        assert answer.status_code == 200, answer.text
        left = {index["index"] for index in client.get("/_cat/indices/zipkin-*", params={"format": "json"}).json()}
    assert left and not any(name.endswith(str(DAY)) for name in left)
    assert keeping.Reader(stored[0]).links(ms(MIDDAY) + 12 * 3_600_000 - 1, 86_399_999) == {}


def test_old_days_are_deleted_by_the_command_and_today_stays(opensearch, stored):
    url, traces = stored
    with Server.of(opensearch.url).client() as client:

        def days() -> set[str]:
            rows = client.get("/_cat/indices/zipkin-*", params={"format": "json"}).json()
            return {row["index"][-10:] for row in rows}

        today = {str(datetime.now(UTC).date()), str(datetime.now(UTC).date() - timedelta(days=1))}
        assert days() - today, "an earlier test has stored spans of April"
        command = [sys.executable, "-m", "cluster", "retention", "--storage-url", opensearch.url, "--keep-days", "7"]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert answer.returncode == 0, answer.stderr
        assert "zipkin-span-2026-04-02" in answer.stdout
        assert days() and not days() - today
    keeping.assert_kept(url, traces)
