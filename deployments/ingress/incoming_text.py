"""Collects a text that comes in fragments, and tells when there is enough of it to say more."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable

from speech.errors import DeadlineExceeded, InvalidInput, SpeechError
from speech.limits import MAX_LONG_TEXT
from speech.text import check_long_text

#: with less than this, in seconds of sound not heard yet, more text is asked to be said
LEAD_S = 1.0
#: with fewer tokens than wanted, text is handed over after this time all the same: tokens are only estimated here
PATIENCE_S = 0.25
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+")


class IncomingText:
    """A text that is read from its fragments while it is said. One task reads it, and one consumer waits for more.

    Args:
        fragments: the text's fragments, cut anywhere; they are joined as they are.
        timeout_s: the longest time without any new text, in seconds.
        most: characters at most.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        fragments: AsyncIterator[str],
        timeout_s: float = 30.0,
        most: int = MAX_LONG_TEXT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fragments = fragments
        self._timeout_s = timeout_s
        self._most = most
        self._clock = clock
        self._text = ""
        self._complete = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def take(self, least: int, before: str = "", ahead_s: float = 0.0) -> tuple[str, bool]:
        """Wait until there is enough new text, and return all of it; also, whether it is complete.

        There is enough with about `least` new tokens, or with any new text after a quarter of a second. While the
        listener has more than a second of sound, nothing is hurried: more text can be said at once then.

        Args:
            least: the number of text tokens with which more can be said.
            before: the text that was taken last.
            ahead_s: seconds of sound that the listener has not heard yet.

        Raises:
            DeadlineExceeded: (`text_overdue`) no text came for `timeout_s`.
            InvalidInput: (param `text`) the text is too long, or holds what no text may.
            Exception: whatever the fragments raise.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._read())
        hurry_at = self._clock() + max(0.0, ahead_s - LEAD_S)
        grown_at: float | None = None  # time at which there was new text that can be handed over
        while True:
            self._changed.clear()
            now = self._clock()
            if self._error is not None:
                raise self._error
            if self._complete:
                return check_long_text(self._text), True
            text = self._checked()
            new = _words(text) - _words(before)
            if new > 0 and grown_at is None:
                grown_at = now
            ready_at = None if grown_at is None else hurry_at if new >= least else max(hurry_at, grown_at + PATIENCE_S)
            if ready_at is not None and now >= ready_at:
                return text, False
            await self._wait(None if ready_at is None else ready_at - now)

    async def close(self) -> None:
        """Read no more fragments."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _checked(self) -> str:
        """Return the text so far; the space at its end tells that its last word is whole."""
        if not self._text.strip():
            return ""
        try:
            text = check_long_text(self._text)
        except InvalidInput as error:
            if error.code == "text_empty":
                return ""
            raise
        return f"{text} " if self._text[-1:].isspace() else text

    async def _wait(self, seconds: float | None) -> None:
        """Wait for a change, or so many seconds. Raises DeadlineExceeded if nothing comes for too long."""
        limit = self._timeout_s if seconds is None else min(seconds, self._timeout_s)
        try:
            async with asyncio.timeout(limit):
                await self._changed.wait()
        except TimeoutError:
            if seconds is None:
                raise overdue(self._timeout_s) from None

    async def _read(self) -> None:
        try:
            async for fragment in self._fragments:
                self._text += fragment
                if len(self._text) > self._most:
                    raise InvalidInput(
                        f"The text is longer than {self._most} characters. End it, and begin another utterance.",
                        param="text",
                        code="text_too_long",
                    )
                self._changed.set()
            self._complete = True
        except Exception as error:
            self._error = error
        self._changed.set()


def overdue(seconds: float) -> SpeechError:
    """Return the error of a text that does not come."""
    return DeadlineExceeded(
        f"No more text came for {seconds:.0f} s, and the utterance was not ended. Send its text as it is written, and "
        "end it when it is complete.",
        param="text",
        code="text_overdue",
    )


def _words(text: str) -> int:
    """Estimate the tokens of a text: a word or a Chinese character is one at least, mostly."""
    return len(_WORDS.findall(text))
