"""Zipkin's Kafka collector: a message is a JSON list of spans on the topic `zipkin`.

Needs `confluent-kafka`, which the project doesn't install by itself. A batch counts as sent once all in-sync replicas
have it (`acks=all`), so a broker that dies right after loses nothing either.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracing.transport import Rejected, Unavailable, join


class KafkaTransport:
    """Sends each batch as one message and waits for its acknowledgement.

    Args:
        bootstrap: `host:port`, several with commas between.
        more: further settings of librdkafka, for example for TLS and SASL.

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
                # librdkafka would write to stderr by itself; failures are the sender's to log, once.
                "log_level": 0,
                **(more or {}),
            },
            logger=_silent(),
        )

    def send(self, traces: Sequence[bytes]) -> None:
        outcome: list = []
        try:
            self._producer.produce(self._topic, join(traces), on_delivery=lambda error, _: outcome.append(error))
            # Longer than the message's own timeout: it must be decided when this returns, or it could go out twice.
            self._producer.flush(self._timeout_s + 1)
        except self._refusal as error:
            self._raise(getattr(error, "args", [None])[0], type(error).__name__)
        if not outcome:
            raise Unavailable("Kafka: no acknowledgement")
        if outcome[0] is not None:
            self._raise(outcome[0], "KafkaError")

    def _raise(self, error, otherwise: str) -> None:
        code = error.code() if hasattr(error, "code") else None
        if code == self._too_large:
            raise Rejected("Kafka: message too large")
        raise Unavailable(f"Kafka: {error.name() if code is not None else otherwise}")

    def close(self) -> None:
        self._producer.flush(0)


def _silent():
    import logging

    logger = logging.getLogger("tracing.export.kafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
