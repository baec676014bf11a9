"""Sends traces to Zipkin's Kafka collector: a message is a JSON list of spans on the topic `zipkin`.

It needs `confluent-kafka`, which the project does not install by itself. A batch counts as sent once all in-sync
replicas have it (`acks=all`), so a broker that dies right after it loses nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, NoReturn

from tracing.transport import NO_TRACE, Rejected, Unavailable, join


class KafkaTransport:
    """Sends each batch as one message and waits for its acknowledgement.

    Args:
        bootstrap: `host:port`; several are separated by commas.
        topic: The topic that Zipkin reads.
        timeout_s: For one message.
        more: Further settings of librdkafka, for example for TLS and SASL.

    Raises:
        RuntimeError: `confluent-kafka` isn't installed.
    """

    name = "kafka"

    def __init__(self, bootstrap: str, topic: str, timeout_s: float, more: dict[str, str] | None = None) -> None:
        try:
            import confluent_kafka
        except ImportError:
            raise RuntimeError("Sending traces through Kafka needs a client: pip install confluent-kafka") from None
        self._topic = topic
        self._timeout_s = timeout_s
        self._too_large = confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE
        self._refusal = (confluent_kafka.KafkaException, BufferError)
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "linger.ms": 0,
                "compression.type": "gzip",
                "message.timeout.ms": int(timeout_s * 1000),
                # librdkafka would write to stderr by itself. The sender logs failures, once.
                "log_level": 0,
                **(more or {}),
            },
            logger=_muted_logger(),
        )

    def send(self, traces: Sequence[bytes]) -> None:
        """As `Transport.send`. The broker takes anything, and a line that is no trace would spoil all of a message."""
        message = join(traces)
        try:
            for span in json.loads(message):
                span["traceId"], span["id"]
        except NO_TRACE as error:
            raise Rejected(f"no trace: {type(error).__name__}") from None
        outcome: list[Any] = []
        try:
            self._producer.produce(self._topic, message, on_delivery=lambda error, _: outcome.append(error))
            # Longer than the message's own timeout: its fate must be known on return, or it could go out twice.
            self._producer.flush(self._timeout_s + 1)
        except self._refusal as error:
            self._raise(getattr(error, "args", [None])[0], type(error).__name__)
        if not outcome:
            raise Unavailable("Kafka: no acknowledgement")
        if outcome[0] is not None:
            self._raise(outcome[0], "KafkaError")

    def _raise(self, error: Any, otherwise: str) -> NoReturn:
        code = error.code() if hasattr(error, "code") else None
        if code == self._too_large:
            raise Rejected("Kafka: message too large")
        raise Unavailable(f"Kafka: {error.name() if code is not None else otherwise}")

    def close(self) -> None:
        """Let go of the producer. Nothing waits in it: `send` returns after the acknowledgement."""
        self._producer.flush(0)


def _muted_logger() -> logging.Logger:
    logger = logging.getLogger(f"{__name__}.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
