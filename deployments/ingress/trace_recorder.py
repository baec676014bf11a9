"""The end of every trace: decide whether it is kept, say why on its spans, hand it to the exporter, count."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from access.authentication import Principal
from deployments import error_messages
from deployments.settings import LiveTracing, Tracing
from speech.dialects import Registry
from tracing import Exporter, ExportSettings, FinishedSpan, Incoming, encode, vocabulary
from tracing.redaction import pseudonym
from tracing.sampling import FinishedTrace, Sampler
from tracing.settings import Allow

_MIN_SECRET_BYTES = 32


class TraceRecorder:
    """One process's. `registry`: the dialects whose tags may leave.

    Raises ValueError where the secret file can't be used.
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
            ExportSettings(
                zipkin_url=settings.zipkin_url,
                protocol=settings.protocol,
                kafka=settings.kafka,
                kafka_options=settings.kafka_options,
                file=settings.spans_file,
                spool_dir=settings.spool_dir,
                spool_limit_bytes=int(settings.spool_limit_mb * 1e6),
                retry_most_s=settings.retry_most_s,
                allow=Allow(
                    error_messages=error_messages.IN_TRACES,
                    values={
                        vocabulary.REQUEST_DIALECT: frozenset(dialect.tag for dialect in registry),
                        vocabulary.REQUEST_LANGUAGE: frozenset(dialect.language for dialect in registry),
                    },
                ),
            )
        )

    def reconfigure(self, live: LiveTracing) -> None:
        """Raises ValueError for a ratio beside `rules` of one's own, which it would not change."""
        if live.sampling_ratio is not None and self._sampling.rules is not None:
            raise ValueError(
                "sampling_ratio changes nothing where tracing.sampling has rules of its own; change the "
                "ratio of the rule `any` there"
            )
        self.tracing = live.tracing
        ratio = self._sampling.ratio if live.sampling_ratio is None else live.sampling_ratio
        self._sampler.configure(self._sampling.model_copy(update={"ratio": ratio}))

    def user_hash(self, caller: Principal) -> str | None:
        """The only form in which a caller's user leaves; None without a secret to hash with."""
        return pseudonym(caller.user, self._user_key) if caller.user and self._user_key else None

    def finish(self, records: list[FinishedSpan], incoming: Incoming, caller: Principal) -> bool:
        """Takes a whole finished trace, the root first, or none of a request made while tracing was off; True where it
        was kept."""
        if not records:
            self._untraced += 1
            return False
        verdict = self._sampler.decide(_judged(records, incoming, caller))
        if verdict.keep:
            spans = encode(records)
            verdict.stamp(spans)
            self.exporter.submit(spans)
        return verdict.keep

    def foresee(self, root: FinishedSpan, incoming: Incoming, caller: Principal) -> bool:
        """Whether a trace is kept for certain, by what its root says before it is finished."""
        return self._sampler.foresee(_judged([root], incoming, caller))

    def counters(self) -> dict[str, int]:
        """In traces: `kept_<reason>` and `dropped_<reason>` of the sampler, and what became of the kept ones, as
        `Exporter.counters` names it, below `export_`; `untraced` are requests made while tracing was off."""
        exported = {f"export_{name}": n for name, n in self.exporter.counters().items()}
        return self._sampler.counters() | {"untraced": self._untraced} | exported

    def close(self, timeout_s: float) -> None:
        self.exporter.close(timeout_s=timeout_s)


def _judged(records: list[FinishedSpan], incoming: Incoming, caller: Principal) -> FinishedTrace:
    return FinishedTrace.of(records, incoming, trusted=caller.trusted, principals=caller.principals)


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
