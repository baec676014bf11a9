"""gRPC and Kafka as ways out, against servers that speak the real protocols on loopback."""

import json
import time
from concurrent import futures

import grpc
import pytest
from google.protobuf import descriptor_pb2
from pydantic import ValidationError

from tracing import Exporter, ExportSettings, Tracer, encode, vocabulary
from tracing.grpc_transport import GrpcTransport, to_protobuf
from tracing.transport import Rejected, Unavailable


def real_trace() -> list[dict]:
    root = Tracer(vocabulary.INGRESS, ip="10.1.2.3").server("POST /api/generate", parent=None)
    root.annotate(vocabulary.FIRST_CHUNK)
    lost = Tracer(vocabulary.INGRESS).client(
        vocabulary.VOCODE_WAV, parent=root.context, remote_service=vocabulary.VOCODER
    )
    lost.fail("stage_unavailable", status=503)
    return encode(root.end()) + encode(lost.end())


def line(spans: list[dict]) -> bytes:
    return json.dumps(spans).encode()


def fields(message: bytes) -> list[tuple[int, object]]:
    """A protobuf message as (field number, value), read by the wire format alone."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
            continue
        length = varint() if key & 7 == 2 else 8
        found.append((key >> 3, message[at : at + length]))
        at += length
    return found


def test_a_span_has_the_field_numbers_of_zipkin_proto():
    span = {
        "traceId": "ab" * 16,
        "id": "cd" * 8,
        "parentId": "ef" * 8,
        "kind": "SERVER",
        "name": "n",
        "timestamp": 5,
        "duration": 300,
        "localEndpoint": {"serviceName": "s", "ipv4": "1.2.3.4"},
        "remoteEndpoint": {"serviceName": "r", "ipv6": "::1"},
        "annotations": [{"timestamp": 7, "value": "v"}],
        "tags": {"k": "w"},
    }
    ((one, body),) = fields(to_protobuf([span]))
    assert one == 1
    assert fields(body) == [
        (1, b"\xab" * 16),
        (2, b"\xef" * 8),
        (3, b"\xcd" * 8),
        (4, 2),
        (5, b"n"),
        (6, (5).to_bytes(8, "little")),
        (7, 300),
        (8, b"\x0a\x01s\x12\x04\x01\x02\x03\x04"),
        (9, b"\x0a\x01r\x1a\x10" + b"\0" * 15 + b"\x01"),
        (10, b"\x09" + (7).to_bytes(8, "little") + b"\x12\x01v"),
        (11, b"\x0a\x01k\x12\x01w"),
    ]
    assert [v for n, v in fields(fields(to_protobuf([span | {"kind": "CLIENT"}]))[0][1]) if n == 4] == [1]
    plain = {k: v for k, v in span.items() if k not in ("kind", "parentId")}
    assert {n for n, _ in fields(fields(to_protobuf([plain]))[0][1])}.isdisjoint({2, 4})


def test_the_schema_stays_out_of_the_default_pool():
    with pytest.raises(KeyError):
        descriptor_pb2.DESCRIPTOR.pool.FindMessageTypeByName("zipkin.proto3.Span")


class FakeCollector(grpc.GenericRpcHandler):
    """Zipkin's gRPC service by name, answering with the codes it was given."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.messages: list[bytes] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, call):
        if call.method != "/zipkin.proto3.SpanService/Report":
            return None
        return grpc.unary_unary_rpc_method_handler(self.report)

    def report(self, message: bytes, context) -> bytes:
        if self.codes:
            context.abort(self.codes.pop(0), "details that echo canary7secret")
        self.messages.append(message)
        return b""


@pytest.fixture
def collector():
    fake = FakeCollector()
    yield fake
    fake.server.stop(0).wait()


def test_over_grpc(collector, tmp_path):
    exporter = Exporter(
        ExportSettings(zipkin_url=f"http://127.0.0.1:{collector.port}", protocol="grpc", spool_dir=tmp_path)
    )
    traces = [real_trace() for _ in range(3)]
    for spans in traces:
        exporter.submit(spans)
    exporter.close(5)
    assert b"".join(collector.messages) == to_protobuf([span for spans in traces for span in spans])


@pytest.mark.parametrize(
    "code, raised, answered",
    [
        ("INVALID_ARGUMENT", Rejected, None),
        ("RESOURCE_EXHAUSTED", Rejected, None),
        ("INTERNAL", Unavailable, True),
        ("UNAVAILABLE", Unavailable, False),
        ("UNIMPLEMENTED", Unavailable, False),
    ],
)
def test_grpc_codes(collector, code, raised, answered):
    collector.codes = [grpc.StatusCode[code]]
    transport = GrpcTransport(f"http://127.0.0.1:{collector.port}", 5.0)
    with pytest.raises(raised, match=code) as caught:
        transport.send([line(real_trace())])
    transport.close()
    assert "canary7secret" not in str(caught.value)
    assert raised is Rejected or caught.value.answered is answered
    assert code != "UNIMPLEMENTED" or "COLLECTOR_GRPC_ENABLED" in str(caught.value)


@pytest.mark.parametrize("damaged", [b"\0" * 40, b'[{"traceId":"', b"[1]", b'[{"id":"0000000000000001"}]'])
def test_a_damaged_line_is_refused_before_it_is_sent_over_grpc(damaged):
    transport = GrpcTransport("http://127.0.0.1:1", 1)
    with pytest.raises(Rejected, match="no trace"):
        transport.send([line(real_trace()), damaged])
    transport.close()


@pytest.mark.parametrize("damaged", [b"\0" * 40, b'[{"traceId":"', b"[1]", b'[{"id":"0000000000000001"}]'])
def test_a_damaged_line_spoils_no_message_of_kafka(damaged):
    pytest.importorskip("confluent_kafka", reason="Kafka's client isn't installed: pip install confluent-kafka")
    from tracing.kafka_transport import KafkaTransport

    transport = KafkaTransport("127.0.0.1:1", "zipkin", 0.1)
    with pytest.raises(Rejected, match="no trace"):
        transport.send([line(real_trace()), damaged])
    transport.close()


def test_grpc_with_nobody_there_is_unavailable():
    transport = GrpcTransport("http://127.0.0.1:1", 2.0)
    with pytest.raises(Unavailable):
        transport.send([line(real_trace())])
    transport.close()


@pytest.fixture
def broker():
    """The broker that librdkafka brings for tests: one process, real protocol, a port of its own choosing."""
    kafka = pytest.importorskip("confluent_kafka", reason="Kafka's client isn't installed: pip install confluent-kafka")
    holder = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "ignored:1", "log_level": 0})
    (member,) = holder.list_topics(timeout=10).brokers.values()
    yield f"{member.host}:{member.port}"
    del holder


def consumed(broker: str, topic: str, spans: int) -> list[list[dict]]:
    """The messages of a topic, until they hold so many spans together: how traces share messages is the linger's, and a
    loaded machine's."""
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": broker, "group.id": "zipkin", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    messages, until = [], time.monotonic() + 30
    while sum(map(len, messages)) < spans and time.monotonic() < until:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            messages.append(json.loads(message.value()))
    consumer.close()
    return messages


def test_over_kafka(broker, tmp_path):
    exporter = Exporter(ExportSettings(kafka=broker, spool_dir=tmp_path, timeout_s=10, batch_traces=2, linger_s=0.3))
    traces = [real_trace() for _ in range(4)]
    for spans in traces:
        exporter.submit(spans)
    exporter.close(10)
    assert exporter.counters()["sent"] == 4
    sent = sum(traces, [])
    messages = consumed(broker, "zipkin", len(sent))
    assert 2 <= len(messages) <= 4  # never more than two traces in one
    arrived = [span for message in messages for span in message]  # messages go to any partition: in any order
    assert sorted(arrived, key=lambda s: s["id"]) == sorted(sent, key=lambda s: s["id"])


def test_kafka_too_large_is_a_refusal_and_nobody_there_is_not(broker):
    from tracing.kafka_transport import KafkaTransport

    transport = KafkaTransport(broker, "zipkin", 5.0, {"message.max.bytes": "1000"})
    with pytest.raises(Rejected, match="too large"):
        transport.send([line(real_trace() * 10)])
    transport.send([line(real_trace()[:1])])
    transport.close()
    nobody = KafkaTransport("127.0.0.1:1", "zipkin", 0.3)
    with pytest.raises(Unavailable, match="Kafka"):
        nobody.send([line(real_trace())])
    nobody.close()


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"zipkin_url": "http://127.0.0.1:1", "kafka": "127.0.0.1:2"}, "give one"),
        ({"kafka": "localhost"}, "pattern"),
        ({"zipkin_url": "http://127.0.0.1:1", "protocol": "thrift"}, "'http', 'grpc' or 'otlp'"),
    ],
)
def test_wrong_settings_say_what_is_wrong(wrong, says):
    with pytest.raises(ValidationError, match=says):
        ExportSettings(**wrong)
