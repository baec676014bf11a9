"""All errors of a request, as one small hierarchy.

A `SpeechError` has a `message` for the client (written by us, never the client's own text), a `type` by which an
operator filters traces, and an HTTP status. It survives pickling, because it travels from a stage's replica to the
ingress in a reply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

# Seconds in `Retry-After`, by the reason for the refusal. Others follow from a setting or a limit.
RETRY_SOON_S = 1.0  #: a moment: a stage that starts, another of the caller's requests that ends
RETRY_CONTENDED_S = 2.0  #: many processes change the voice store at once
RETRY_RESTARTED_S = 5.0  #: a replica, the ingress or the voice store comes back


class SpeechError(Exception):
    """Base of all errors that a client may see. Subclasses set `type` and `status`.

    Args:
        message: cause and remedy, in our own words; shown to the client.
        param: the request field that caused it (`"text"`, `"prompt_audio"` …), or None.
        code: a finer, machine-readable reason below `type` (`"sample_rate_too_low"`), or None.
        retry_after_s: seconds after which a retry makes sense; becomes the `Retry-After` header.
        service: the service that failed (`"tts-service"`), or None. The watchdog restarts it.
    """

    type: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        service: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.service = service

    def __reduce__(self) -> tuple[Callable[..., SpeechError], tuple[object, ...]]:
        # The default rebuilds an exception from its positional arguments alone and would lose the keywords.
        return _rebuild, (self.__class__, self.message, self.param, self.code, self.retry_after_s, self.service)

    def headers(self) -> dict[str, str]:
        """The headers of the response: `Retry-After` in whole seconds, if a retry makes sense."""
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, round(self.retry_after_s)))}

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body: `{"error": {"message", "type", "param", "code"}}`, and `service` if one has failed."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error if self.service is None else error | {"service": self.service}}


def _rebuild(
    cls: type[SpeechError],
    message: str,
    param: str | None,
    code: str | None,
    retry_after_s: float | None,
    service: str | None = None,
) -> SpeechError:
    return cls(message, param=param, code=code, retry_after_s=retry_after_s, service=service)


def renamed(error: SpeechError, names: dict[str, str]) -> SpeechError:
    """The same error for an API with other field names: `names` maps our name to theirs."""
    if error.param not in names:
        return error
    return type(error)(
        error.message,
        param=names[error.param],
        code=error.code,
        retry_after_s=error.retry_after_s,
        service=error.service,
    )


class InvalidInput(SpeechError):
    """The request itself is wrong; the same request will fail again."""

    type = "input_validation"
    status = 400


class UnsupportedDialect(SpeechError):
    """The running engine can't speak this dialect. It never answers in another dialect."""

    type = "unsupported_dialect"
    status = 422


class NotAuthorized(SpeechError):
    """A key is required, and the caller sent no valid one."""

    type = "not_authorized"
    status = 401

    def headers(self) -> dict[str, str]:
        return super().headers() | {"WWW-Authenticate": "Bearer"}


class RoleMissing(SpeechError):
    """The key is valid, but has no role for this route."""

    type = "not_authorized"
    status = 403


class RateLimited(SpeechError):
    """The caller has reached a limit. `retry_after_s`: when a retry may succeed."""

    type = "rate_limited"
    status = 429


class NotFound(SpeechError):
    """There is nothing at this path."""

    type = "not_found"
    status = 404


class MethodNotAllowed(SpeechError):
    """The path does not take this method."""

    type = "method_not_allowed"
    status = 405


class VoiceNotFound(SpeechError):
    """No voice of this name or id is stored."""

    type = "voice_not_found"
    status = 404


class Conflict(SpeechError):
    """The request conflicts with a stored voice or a limit of the store. It can succeed once that has changed."""

    type = "conflict"
    status = 409


class NotOwner(SpeechError):
    """The voice was stored with another key."""

    type = "not_authorized"
    status = 403


class VoiceStoreUnavailable(SpeechError):
    """The voice store can't be reached, or refuses. The change may or may not have been made."""

    type = "voice_store_unavailable"
    status = 503


class Overloaded(SpeechError):
    """Admission refused the request before any stage saw it."""

    type = "overloaded"
    status = 503


class StageUnavailable(SpeechError):
    """A stage died or could not be reached, also at the second attempt."""

    type = "stage_unavailable"
    status = 503


class DeadlineExceeded(SpeechError):
    """The request's deadline passed before its audio was ready."""

    type = "deadline_exceeded"
    status = 504


class InternalError(SpeechError):
    """A defect of this service. Trace and log say more than the message."""

    type = "internal"
    status = 500


class Cancelled(SpeechError):
    """The client left before its response. Only the trace shows this error."""

    type = "cancelled"
    status = 499
