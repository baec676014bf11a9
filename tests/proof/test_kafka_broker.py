"""Traces through a real Kafka broker, and over gRPC, into a real Zipkin that reads both."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster import ports, processes, zipkin
from cluster.ports import LOOPBACK
from tests.helpers import jvm, keeping
from tracing import Exporter, ExportSettings

pytestmark = pytest.mark.proof

CLUSTER_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # any 16 bytes in base64


class Broker:
    """One Kafka process that is broker and controller, with a fixed port: it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.program = jvm.Program("kafka.txt", folder)
        self.log = folder / "kafka.log"
        self.port, controller = ports.any_free(), ports.any_free()
        self.address = f"{LOOPBACK}:{self.port}"
        self.settings = folder / "kafka.properties"
        self.settings.write_text(
            "\n".join(
                (
                    "process.roles=broker,controller",
                    "node.id=1",
                    f"controller.quorum.voters=1@{LOOPBACK}:{controller}",
                    f"listeners=PLAINTEXT://{self.address},CONTROLLER://{LOOPBACK}:{controller}",
                    f"advertised.listeners=PLAINTEXT://{self.address}",
                    "controller.listener.names=CONTROLLER",
                    f"log.dirs={folder / 'data'}",
                    "num.partitions=2",
                    "offsets.topic.num.partitions=1",
                    "offsets.topic.replication.factor=1",
                    "transaction.state.log.replication.factor=1",
                    "transaction.state.log.min.isr=1",
                    "group.initial.rebalance.delay.ms=0",
                )
            )
        )
        made = subprocess.run(
            self.program.command("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self.settings)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        self.process: processes.Started | None = None

    def start(self) -> None:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        self.process = processes.start("kafka", self.program.command("kafka.Kafka", str(self.settings)), self.log)

        def answers() -> bool:
            if ports.is_free(self.port):
                return False
            try:
                AdminClient({"bootstrap.servers": self.address, "log_level": 0}).list_topics(timeout=5)
                return True
            except KafkaException:
                return False

        jvm.wait_until(answers, self.process)
        assert ports.open_to_the_network({self.process.pid}) == []

    def stop(self) -> None:
        if self.process is not None:
            processes.stop(self.process)
            self.process = None


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    pytest.importorskip("confluent_kafka", reason="Kafka's client isn't installed: pip install confluent-kafka")
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def url(broker, tmp_path_factory):
    """Of a Zipkin that reads from the broker, and takes gRPC beside HTTP."""
    started = []
    try:
        server, missing = zipkin.find_or_start(
            ports.any_free(),
            tmp_path_factory.mktemp("zipkin") / "zipkin.log",
            lambda text: None,
            keeping.environment(),
            remember=started.append,
            storage=lambda: {"KAFKA_BOOTSTRAP_SERVERS": broker.address, "COLLECTOR_GRPC_ENABLED": "true"},
        )
        assert server is not None, missing
        yield server.url
    finally:
        for server in started:
            keeping.stop(server)


def test_traces_go_through_kafka_whole(broker, url, tmp_path):
    traces = keeping.requests(200)
    keeping.export(ExportSettings(kafka=broker.address, spool_dir=tmp_path, batch_traces=20), traces)
    keeping.assert_kept(url, traces)
    metrics = keeping.Reader(url).client.get("/metrics").json()
    assert metrics["counter.zipkin_collector.messages.kafka"] >= 10, "they came through Kafka, in several messages"
    assert metrics["counter.zipkin_collector.messages_dropped.kafka"] == 0


def test_a_broker_that_is_down_for_a_while_loses_nothing(broker, url, tmp_path):
    traces = keeping.requests(120, first=1001)
    exporter = Exporter(
        ExportSettings(
            kafka=broker.address, spool_dir=tmp_path, batch_traces=10, timeout_s=2, retry_first_s=0.2, retry_most_s=1
        )
    )
    try:
        for spans in traces[:40]:
            exporter.submit(spans)
        keeping.eventually(exporter.counters, lambda counts: counts["sent"] == 40)
        broker.stop()
        for spans in traces[40:80]:
            exporter.submit(spans)
        down = keeping.eventually(exporter.counters, lambda counts: counts["failed_batches"] >= 2)
        assert down["sent"] == 40 and down["waiting"] == 40 and down["dropped"] == 0
        broker.start()
        for spans in traces[80:]:
            exporter.submit(spans)
        keeping.eventually(exporter.counters, lambda counts: counts["sent"] == 120, within_s=60)
    finally:
        exporter.close(5)
    assert exporter.counters()["dropped"] == 0
    keeping.assert_kept(url, traces, within_s=60)


def test_what_an_ended_process_left_in_its_spool_goes_out_with_the_next(broker, url, tmp_path):
    """The broker is down, and the process ends before it is back."""
    traces = keeping.requests(45, first=2001)
    broker.stop()
    settings = ExportSettings(kafka=broker.address, spool_dir=tmp_path, timeout_s=1, retry_first_s=0.2, retry_most_s=1)
    lost = Exporter(settings)
    for spans in traces:
        lost.submit(spans)
    lost.close(0.5)
    assert lost.counters()["sent"] == 0 and lost.counters()["waiting"] == 45
    broker.start()
    heir = Exporter(settings)
    try:
        keeping.eventually(heir.counters, lambda counts: counts["sent"] == 45)
    finally:
        heir.close(5)
    keeping.assert_kept(url, traces, within_s=60)


def test_traces_go_over_grpc_whole(url, tmp_path):
    traces = keeping.requests(200, first=3001)
    keeping.export(ExportSettings(zipkin_url=url, protocol="grpc", spool_dir=tmp_path), traces)
    keeping.assert_kept(url, traces)
    metrics = keeping.Reader(url).client.get("/metrics").json()
    assert metrics["counter.zipkin_collector.messages.grpc"] >= 2
