"""A storage that fails behind a Zipkin that answers."""

import json

import pytest

from tests.helpers.export import real_trace, trace, wait_for
from tests.helpers.fake_zipkin import FakeZipkin, fake_zipkin
from tests.unit.test_tracing_transports import FakeCollector, line
from tracing import Exporter, ExportSettings
from tracing.grpc_transport import GrpcTransport, to_protobuf
from tracing.http_transport import HttpTransport
from tracing.storage_checked_transport import CHECK_INTERVAL_S, StorageCheckedTransport
from tracing.transport import Unavailable


def health(storage: str = "UP", collector: str = "UP") -> dict:
    """Zipkin's, as its 3.6 answers with MySQL and Kafka: a part's name may hold its address."""
    whole = "UP" if storage == collector == "UP" else "DOWN"
    return {
        "status": whole,
        "zipkin": {
            "status": whole,
            "details": {
                "MySQLStorage{datasource=…}": {"status": storage},
                "KafkaCollector{…}": {"status": collector},
                "Throttled{MySQLStorage}": {"status": storage},
            },
        },
    }


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def zipkin():
    with fake_zipkin() as server:
        server.health = health()
        yield server


def stored(zipkin: FakeZipkin, clock: Clock) -> StorageCheckedTransport:
    return StorageCheckedTransport(HttpTransport(zipkin.url, 2.0), zipkin.url, 2.0, clock)


def ids(zipkin: FakeZipkin) -> list[int]:
    return [int(span["traceId"], 16) for span in zipkin.spans]


def test_what_a_zipkin_took_while_its_storage_was_down_goes_out_again(zipkin):
    clock = Clock()
    transport = stored(zipkin, clock)
    transport.send([trace(1)])
    clock.s += CHECK_INTERVAL_S
    transport.send([trace(2)])  # the look after it is good: 1 is stored; 2 waits for the next one
    assert zipkin.looks == 1
    zipkin.health = health(storage="DOWN")
    transport.send([trace(3)])
    clock.s += CHECK_INTERVAL_S
    for _ in range(3):
        with pytest.raises(Unavailable, match="storage is down") as caught:
            transport.send([trace(4)])
        assert not caught.value.answered, "or it would be taken for the trace's own fault"
    assert ids(zipkin) == [1, 2, 3, 4], "while it is down nothing more is given to it"
    zipkin.health = health()
    zipkin.spans.clear()
    transport.send([trace(4)])
    assert ids(zipkin) == [2, 3, 4]
    assert transport.close() == []


def test_what_could_not_be_stored_is_handed_back_at_the_end(zipkin, tmp_path):
    def settings(url: str) -> ExportSettings:
        return ExportSettings(zipkin_url=url, spool_dir=tmp_path, linger_s=0)

    zipkin.health = health(storage="DOWN")
    first = Exporter(settings(zipkin.url))
    spans = real_trace()
    first.submit(spans)
    wait_for(lambda: first.counters()["sent"] == 1)
    first.close(5)
    assert first.counters()["returned"] == 1
    zipkin.health = health()
    zipkin.spans.clear()
    second = Exporter(settings(zipkin.url))
    wait_for(lambda: zipkin.spans == spans)
    second.close(5)
    assert second.counters()["adopted"] == 1 and not list(tmp_path.glob("*.spool"))


def test_much_at_once_is_looked_after_sooner(zipkin, monkeypatch):
    monkeypatch.setattr("tracing.storage_checked_transport.MAX_HELD_BYTES", 3 * len(trace(1)))
    transport = stored(zipkin, Clock())
    for number in range(9):
        transport.send([trace(number)])
    assert zipkin.looks == 2 and ids(zipkin) == list(range(9))
    transport.close()


@pytest.mark.parametrize(
    "page", [None, [], {"status": "DOWN"}, {"zipkin": {"details": {"MySQLStorage": "DOWN"}}}, health(collector="DOWN")]
)
def test_a_receiver_without_such_a_page_or_with_another_part_down_is_taken_at_its_word(zipkin, page):
    zipkin.health = page
    clock = Clock()
    transport = stored(zipkin, clock)
    for number in range(3):
        transport.send([trace(number)])
        clock.s += CHECK_INTERVAL_S
    assert transport.close() == [] and ids(zipkin) == [0, 1, 2] and zipkin.looks >= 2


def test_over_grpc_it_is_looked_at_too(zipkin):
    collector, clock = FakeCollector(), Clock()
    transport = StorageCheckedTransport(
        GrpcTransport(f"http://127.0.0.1:{collector.port}", 2.0), zipkin.url, 2.0, clock
    )
    spans = [line(real_trace()) for _ in range(2)]
    zipkin.health = health(storage="DOWN")
    transport.send(spans[:1])
    clock.s += CHECK_INTERVAL_S
    with pytest.raises(Unavailable, match="storage is down"):
        transport.send(spans[1:])
    zipkin.health = health()
    collector.messages.clear()
    transport.send(spans[1:])
    assert collector.messages == [to_protobuf(json.loads(trace)) for trace in spans]
    assert transport.close() == []
    collector.server.stop(0).wait()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_both_ways_to_a_zipkin_are_looked_after(protocol):
    exporter = Exporter(ExportSettings(zipkin_url="http://127.0.0.1:1", protocol=protocol))
    [destination] = exporter._destinations
    transport = destination._transport
    assert isinstance(transport, StorageCheckedTransport) and transport.name == protocol
    exporter.close(0.1)
