"""Ends every trace: decides whether it is kept, says why on its spans, hands it to the exporter, counts."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from access.authentication import Principal
from deployments import trace_error_messages
from deployments.settings import LiveTracing, Tracing
from speech.dialects import Registry
from tracing import Exporter, FinishedSpan, Incoming, encode, vocabulary
from tracing.export_settings import Allow
from tracing.redaction import pseudonym
from tracing.sampling import FinishedTrace, Sampler

_MIN_SECRET_BYTES = 32


class TraceRecorder:
    """Decides about the traces of one process.

    Args:
        settings: what is kept, and where it goes.
        registry: the dialects whose tags may leave.

    Raises:
        ValueError: the secret file can't be used.
    """

    def __init__(self, settings: Tracing, registry: Registry) -> None:
        secret = _secret(settings.secret_file)
        sampling = settings.sampling
        if secret and not sampling.salt:
            sampling = sampling.model_copy(update={"salt": _derived(secret, "sampling").hex()})
        self._user_key = _derived(secret, "user.hash") if secret else None
        self._sampling = sampling
        self._sampler = Sampler(sampling)
        self.tracing = True  #: whether requests are to be recorded at all
        self._untraced = 0
        self.exporter = Exporter(
            settings.export_settings(
                Allow(
                    error_messages=trace_error_messages.IN_TRACES,
                    values={
                        vocabulary.REQUEST_DIALECT: frozenset(dialect.tag for dialect in registry),
                        vocabulary.REQUEST_DIALECT_CODE: frozenset(dialect.code for dialect in registry),
                        vocabulary.REQUEST_LANGUAGE: frozenset(dialect.language for dialect in registry),
                    },
                )
            )
        )

    def reconfigure(self, live: LiveTracing) -> None:
        """Take new live settings. Raises ValueError for a ratio beside own `rules`, which it would not change."""
        if live.sampling_ratio is not None and self._sampling.rules is not None:
            raise ValueError(
                "sampling_ratio changes nothing where tracing.sampling has rules of its own; change the "
                "ratio of the rule of type `probabilistic` there"
            )
        self.tracing = live.tracing
        ratio = self._sampling.ratio if live.sampling_ratio is None else live.sampling_ratio
        self._sampler.configure(self._sampling.model_copy(update={"ratio": ratio}))

    def user_hash(self, caller: Principal) -> str | None:
        """Return the only form in which a caller's user leaves; None without a secret to hash with."""
        return pseudonym(caller.user, self._user_key) if caller.user and self._user_key else None

    def finish(self, spans: list[FinishedSpan], incoming: Incoming, caller: Principal) -> bool:
        """Decide about a finished trace and submit it if it is kept.

        Args:
            spans: the whole trace, the root first; empty for a request made while tracing was off.
            incoming: what the request's headers said of tracing.
            caller: the principal who sent the request.

        Returns:
            True if the trace was kept.
        """
        if not spans:
            self._untraced += 1
            return False
        decision = self._sampler.decide(_finished_trace(spans, incoming, caller))
        if decision.keep:
            encoded = encode(spans)
            decision.add_tags(encoded)
            self.exporter.submit(encoded)
        return decision.keep

    def would_keep(self, root: FinishedSpan, incoming: Incoming, caller: Principal) -> bool:
        """Tell whether a trace is kept for certain, by what its root says before it is finished."""
        return self._sampler.would_keep(_finished_trace([root], incoming, caller))

    def counters(self) -> dict[str, int]:
        """Return how many traces became what.

        `kept_<reason>` and `dropped_<reason>` are the sampler's, `export_…` are `Exporter.counters`,
        `export_<destination>_…` are `Exporter.destinations`, and `untraced` are requests made while tracing was off.
        """
        return self._sampler.counters() | {"untraced": self._untraced} | self.exporter.flat_counters()

    def close(self, timeout_s: float) -> None:
        """Wait at most so many seconds until kept traces are sent, and stop."""
        self.exporter.close(timeout_s=timeout_s)


def _finished_trace(spans: list[FinishedSpan], incoming: Incoming, caller: Principal) -> FinishedTrace:
    return FinishedTrace.from_spans(spans, incoming, trusted=caller.trusted, principals=caller.principals)


def _secret(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise ValueError(
            f"tracing.secret_file {path} can't be read ({error.strerror}); make it with `openssl rand "
            f"-hex 32 > {path}`, the same for every ingress replica"
        ) from error
    if len(secret) < _MIN_SECRET_BYTES:
        raise ValueError(
            f"tracing.secret_file {path} holds {len(secret)} bytes; at least {_MIN_SECRET_BYTES} are "
            "needed (`openssl rand -hex 32`)"
        )
    return secret


def _derived(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, purpose.encode(), hashlib.sha256).digest()
