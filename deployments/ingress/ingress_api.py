"""The contract between the ingress and its routes: one Protocol for all of them, and a request's context."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast

from fastapi import Request
from fastapi.responses import Response

from access.authorization import AccessControl
from deployments.arrays import Array
from deployments.ingress.context import RequestContext
from deployments.ingress.fitting import Fitting
from deployments.ingress.live_sessions import Sessions
from deployments.ingress.live_speech import LiveSpeech
from deployments.ingress.server_sent_events import EventFormat
from deployments.settings import ApiConfig
from engines.contract import Engine
from speech.dialects import Registry
from voices import VoiceRecord, Voices


class IngressApi(Protocol):
    """The ingress as its routes see it; `deployment.CosyVoice3Api` is one.

    Attributes:
        config: the ingress's settings.
        engine: the primary engine, for capabilities and checks.
        registry: the dialects.
        voices_store: the stored voices; None if none are stored here.
        fitting: the fits of stored voices.
        live: speech for text that comes bit by bit.
        sessions: the open WebSocket sessions.
        access_control: counts requests that come inside others against their caller's limits.
        started_s: when the replica started, in seconds since the epoch.
    """

    config: ApiConfig
    engine: Engine
    registry: Registry
    voices_store: Voices | None
    fitting: Fitting
    live: LiveSpeech
    sessions: Sessions
    access_control: AccessControl
    started_s: int

    async def speak(
        self,
        fields: Mapping[str, str],
        upload: bytes | None,
        ctx: RequestContext,
        *,
        default_dialect: str | None = None,
        event_format: EventFormat | None = None,
    ) -> Response:
        """Answer a request for speech, whatever its route.

        Args:
            fields: the fields of `speech.requests`, as text.
            upload: the clip that came along, or None.
            ctx: the request.
            default_dialect: the dialect if neither the request, nor its stored voice, nor its key names one.
            event_format: how server-sent events are written; None for our own format.

        Raises:
            SpeechError: the request is wrong, or a stage failed.
        """
        ...

    def subrequest(
        self, parent: RequestContext, name: str, *, deadline_s: float, tags: Mapping[str, Any] | None = None
    ) -> AbstractAsyncContextManager[RequestContext]:
        """Open a traced request without an HTTP request of its own: see `Subrequests.open`."""
        ...

    def trace_url(self, ctx: RequestContext) -> str | None:
        """Return where people find the trace of a subrequest that has ended; None if it was not kept."""
        ...

    async def prepare_voice(self, record: VoiceRecord, ctx: RequestContext) -> None:
        """Find a stored voice in its clip, so that its first request need not. Raises the stages' SpeechErrors."""
        ...

    async def find_watermark(self, samples: Array, rate: int, ctx: RequestContext) -> float | None:
        """Look for the watermark in mono float32 (n,) at `rate` Hz.

        Returns:
            How sure the detector is of it, 0 to 1; None where `marking.watermark` is off, so that none is looked for.

        Raises:
            SpeechError: admission or the stage refuses.
        """
        ...

    def is_admin(self, ctx: RequestContext) -> bool:
        """Tell whether the caller may change voices of others: by an admin's key, or where no keys are in force."""
        ...

    def engine_for(self, ctx: RequestContext) -> Engine:
        """Return the engine in use; the primary one for a request that asks for it."""
        ...

    async def ready(self) -> Response:
        """Answer `/ready`."""
        ...


def context_of(request: Request) -> RequestContext:
    """Return the context that `tracing_middleware.py` has made for a request."""
    return cast(RequestContext, request.state.context)
