"""The tags that tell a request on its root span: dialect, mode, and the text's length and script."""

from __future__ import annotations

from deployments.ingress.context import RequestContext
from speech.dialects import Dialect
from speech.requests import SpeechRequest
from speech.script import script_of
from tracing import vocabulary


def tag_speech(ctx: RequestContext, request: SpeechRequest) -> None:
    """Tag the root span of a request for speech, and note dialect and mode for its metrics."""
    tag_dialect(ctx, request.dialect, request.dialect_source)
    ctx.root.tags(
        {
            vocabulary.REQUEST_MODE: request.utterance.mode,
            vocabulary.TEXT_LENGTH: len(request.utterance.text),
            vocabulary.TEXT_PAUSE_S: round(request.paced.seconds, 3) if request.paced else None,
            vocabulary.TEXT_SCRIPT: script_of(request.utterance.text),
        }
    )
    ctx.dialect, ctx.mode = request.dialect.tag, request.utterance.mode


def tag_dialect(ctx: RequestContext, dialect: Dialect, source: str) -> None:
    """Tag the root span with a dialect.

    Args:
        ctx: The request.
        dialect: Its dialect.
        source: `request`, `voice`, `key` or `config`: the place that named it.
    """
    ctx.root.tags(
        {
            vocabulary.REQUEST_DIALECT: dialect.tag,
            vocabulary.REQUEST_DIALECT_CODE: dialect.code,
            vocabulary.REQUEST_LANGUAGE: dialect.language,
            vocabulary.REQUEST_DIALECT_SOURCE: source,
        }
    )
