"""Zipkin's own module for OTLP, zipkin-otel: a receiver that is not ours, and Zipkin's API to read it back.

    ZIPKIN_OTEL='otel.jar,otel.jar!/lib' make proof ARGS=tests/proof/test_otlp_zipkin.py

`ZIPKIN_OTEL` is the module's `loader.path`, as its README has it: the jar and what is in it, or a folder of jars.
"""

import os

import pytest

from cluster import java, ports, processes, zipkin, zipkin_jar
from tests.helpers import keeping
from tests.helpers.keeping import Reader, as_zipkin_shows
from tracing import ExportSettings, vocabulary
from tracing.otlp_attributes import LOCAL_ADDRESS, PEER_NAMES, SEMANTIC, SERVICE_VERSION

pytestmark = [pytest.mark.proof, pytest.mark.optional]

LAUNCHER = "org.springframework.boot.loader.launch.PropertiesLauncher"
#: what the module adds to each span from the parts of OTLP that Zipkin has no field for
ADDED = {"otel.scope.name", "otel.scope.version", "otel.status_code", LOCAL_ADDRESS, SERVICE_VERSION, *PEER_NAMES}


@pytest.fixture(scope="module")
def taking_otlp(tmp_path_factory):
    loader_path = os.environ.get("ZIPKIN_OTEL")
    if not loader_path:
        pytest.skip(
            "no zipkin-otel: name it with ZIPKIN_OTEL. Maven Central had no release of io.zipkin.contrib.otel "
            "(asked for 0.3.0, November 2026); build it from github.com/openzipkin-contrib/zipkin-otel"
        )
    runtime, missing = java.find(os.environ)
    if runtime is None:
        pytest.skip(missing)
    port, log = ports.any_free(), tmp_path_factory.mktemp("zipkin-otel") / "zipkin.log"
    command = zipkin.java_command(runtime, zipkin_jar.obtain(print), port)
    at = command.index("-jar")
    command[at : at + 2] = ["-cp", command[at + 1], f"-Dloader.path={loader_path}", LAUNCHER]
    command.append("--spring.profiles.active=otel")
    process = processes.start("zipkin", command, log, env=zipkin.settings(port))
    url = f"http://127.0.0.1:{port}"
    try:
        keeping.eventually(lambda: zipkin.healthy(url) or not process.alive, bool, within_s=zipkin.READY_WITHIN_S)
        assert process.alive, processes.last_lines(log)
        yield url
    finally:
        processes.stop(process)


def as_the_module_shows(spans: list[dict]) -> list[dict]:
    """Our spans as Zipkin has them by way of its module: attributes, of resources too, are tags."""
    shown = as_zipkin_shows(spans)
    for span in shown:
        span["tags"] = {SEMANTIC.get(key, key): value for key, value in span.get("tags", {}).items()}
    return shown


def without_what_it_adds(spans: list[dict]) -> list[dict]:
    for span in spans:
        span["tags"] = {key: value for key, value in span["tags"].items() if key not in ADDED}
    return spans


def test_zipkins_own_receiver_reads_every_span_as_we_meant_it(taking_otlp, tmp_path):
    """Ids, parents, times, kinds, names, both endpoints, annotations, error messages, and tags by the table."""
    traces = keeping.requests(100)
    settings = ExportSettings(zipkin_url=taking_otlp, protocol="otlp", spool_dir=tmp_path)
    keeping.export(settings, traces)
    reader = Reader(taking_otlp)
    ids = [spans[0]["traceId"] for spans in traces]
    found = keeping.eventually(
        lambda: reader.whole(ids), lambda all_of: sum(map(len, all_of.values())) == sum(map(len, traces))
    )
    for spans in traces:
        ours, theirs = as_the_module_shows(spans), without_what_it_adds(found[spans[0]["traceId"]])
        for one in (*ours, *theirs):  # a double has other zeros as text
            one["tags"] = {key: _number(value) for key, value in one["tags"].items()}
        for one, other in zip(ours, theirs, strict=True):
            assert one == other
    assert any(vocabulary.ERROR in span["tags"] for spans in found.values() for span in spans)


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def test_its_dependency_graph_has_the_services_of_a_request(taking_otlp):
    links = keeping.eventually(Reader(taking_otlp).links, lambda found: len(found) >= 4)
    assert {pair for pair in links if pair[0] == vocabulary.INGRESS} >= {
        (vocabulary.INGRESS, service) for service in vocabulary.STAGE_SERVICE.values()
    }
