"""All errors of a request, as one small hierarchy.

A `SpeechError` has a `message` for the client (written by us, never the client's own text), a `type` by which an
operator filters traces, and an HTTP status. It survives pickling, because it travels from a stage's replica to the
ingress in a reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

#: Values of Retry-After in seconds. A stopping replica has a successor already; a lost one is replaced in some seconds.
RETRY_AFTER_SUCCESSOR_S = 1.0
RETRY_AFTER_PLACE_S = 1.0  # the end of another request of the caller frees the place; its time is unknown
RETRY_AFTER_CONTENTION_S = 2.0
RETRY_AFTER_RESTART_S = 5.0

#: The response header that names the service at fault, for programs: the watchdog restarts by it.
SERVICE_HEADER = "X-Error-Service"


class SpeechError(Exception):
    """Base of all errors that a client may see. Subclasses set `type` and `status`.

    Args:
        message: cause and remedy, in our own words; shown to the client.
        param: the request field that caused it (`"text"`, `"prompt_audio"` …), or None.
        code: a finer, machine-readable reason below `type` (`"sample_rate_too_low"`), or None.
        retry_after_s: seconds after which a retry makes sense; becomes the `Retry-After` header.
        service: name of the service that failed (`"tts-service"`), or None if no service of ours is at fault; becomes
            the `X-Error-Service` header.
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

    def __reduce__(self) -> tuple[Any, ...]:
        # The default rebuilds an exception from its positional args alone and would lose the keywords.
        return _rebuild, (self.__class__, self.message, self.param, self.code, self.retry_after_s, self.service)

    def headers(self) -> dict[str, str]:
        """Return `Retry-After` in whole seconds and `X-Error-Service`, each if it is set."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, round(self.retry_after_s)))}
        return headers if self.service is None else {**headers, SERVICE_HEADER: self.service}

    def rename_param(self, names: Mapping[str, str]) -> None:
        """Name the field as the client knows it; `names` has the client's name for each of ours."""
        if self.param is not None:
            self.param = names.get(self.param, self.param)

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _rebuild(
    cls: type[SpeechError],
    message: str,
    param: str | None,
    code: str | None,
    retry_after_s: float | None,
    service: str | None,
) -> SpeechError:
    return cls(message, param=param, code=code, retry_after_s=retry_after_s, service=service)


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


class UpgradeRequired(SpeechError):
    """The path is a WebSocket, and the request does not open one."""

    type = "upgrade_required"
    status = 426

    def headers(self) -> dict[str, str]:
        return super().headers() | {"Upgrade": "websocket", "Connection": "Upgrade"}


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


def internal_error(service: str | None = None) -> InternalError:
    """Return the answer to a defect of ours. `service` is the stage that failed, None the ingress itself."""
    return InternalError(
        f"{service or 'The service'} failed in a way it should not have; its log says where, under this trace's id.",
        service=service,
    )


def path_not_found() -> NotFound:
    """Return the answer to a path at which there is nothing."""
    return NotFound("There is nothing at this path; GET /docs lists what there is.")


def stage_unavailable(service: str) -> StageUnavailable:
    """Return the answer while a stage's replicas are gone and Serve starts new ones."""
    return StageUnavailable(
        f"{service} is not available; it is being restarted, try again shortly.",
        retry_after_s=RETRY_AFTER_RESTART_S,
        service=service,
    )
