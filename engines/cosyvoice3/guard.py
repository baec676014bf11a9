"""Turns the failure of a batch's member into an error in its place, so that the other members go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from speech.errors import InternalError, SpeechError

T = TypeVar("T")
_log = logging.getLogger(__name__)


def guarded(function: Callable[..., T], *arguments) -> T | SpeechError:
    """Return the function's result, the SpeechError it raises, or an InternalError for any other failure."""
    try:
        return function(*arguments)
    except SpeechError as error:
        return error
    except Exception as error:
        # The message may hold the user's text: only the place of the failure is logged.
        _log.error("one member of a batch failed in %s with %s", function.__qualname__, type(error).__name__)
        return InternalError("The speech engine failed on this request. The trace and the server's log say more.")
