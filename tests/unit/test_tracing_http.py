"""HTTP to Zipkin: what leaves, and which answers mean what."""

import logging

import pytest

from tests.helpers.export import real_trace, trace, wait_for
from tests.helpers.fake_zipkin import fake_zipkin
from tracing import Exporter, ExportSettings
from tracing.http_transport import HttpTransport
from tracing.transport import Rejected, Unavailable


def test_over_http_gzipped_and_whole(tmp_path):
    with fake_zipkin() as zipkin:
        exporter = Exporter(ExportSettings(zipkin_url=zipkin.url + "/", spool_dir=tmp_path))
        traces = [real_trace() for _ in range(5)]
        for spans in traces:
            exporter.submit(spans)
        exporter.close(5)
        assert zipkin.spans == [span for spans in traces for span in spans]
        assert {h["Content-Encoding"] for h in zipkin.headers} == {"gzip"}
        assert {h["Content-Type"] for h in zipkin.headers} == {"application/json"}


def test_over_http_errors_are_retried_and_their_bodies_not_logged(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "tracing")
    with fake_zipkin() as zipkin:
        zipkin.statuses = [500, 503, 429, 404, 302]
        exporter = Exporter(
            ExportSettings(zipkin_url=zipkin.url, spool_dir=tmp_path, linger_s=0, retry_first_s=0.01, retry_most_s=0.02)
        )
        exporter.submit(real_trace())
        wait_for(lambda: len(zipkin.spans) == 2)
        exporter.close(5)
        assert exporter.counters()["retries"] == 5
    assert "HTTP 500" in caplog.text and "canary7secret" not in caplog.text


@pytest.mark.parametrize("status", [400, 413])
def test_over_http_a_refusal_is_a_refusal(status):
    with fake_zipkin() as zipkin:
        zipkin.statuses = [status]
        transport = HttpTransport(zipkin.url, 2.0)
        with pytest.raises(Rejected, match=str(status)):
            transport.send([trace(1)])
        transport.close()


def test_over_http_nobody_there_is_unavailable_and_not_an_answer():
    transport = HttpTransport("http://127.0.0.1:1", 2.0)
    with pytest.raises(Unavailable) as caught:
        transport.send([trace(1)])
    assert not caught.value.answered
    transport.close()


def test_a_zipkin_that_comes_back_gets_everything(tmp_path):
    exporter = Exporter(
        ExportSettings(
            zipkin_url="http://127.0.0.1:1", spool_dir=tmp_path, linger_s=0, retry_first_s=0.01, retry_most_s=0.02
        )
    )
    traces = [real_trace() for _ in range(30)]
    for spans in traces:
        exporter.submit(spans)
    wait_for(lambda: exporter.counters()["retries"] > 2)
    with fake_zipkin() as zipkin:
        [destination] = exporter._destinations
        destination._transport._transport._post._url = f"{zipkin.url}/api/v2/spans"
        wait_for(lambda: len(zipkin.spans) == 60)
        exporter.close(5)
        assert zipkin.spans == [span for spans in traces for span in spans]
