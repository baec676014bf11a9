"""Keeps what was read of a request's body, so that Serve's proxy can send the request to another ingress replica."""

from __future__ import annotations

from starlette.types import Message, Receive

#: A request with more body than this is sent once. A clip of 30 s in studio quality has 9 MB.
MOST_BYTES = 16 * 1024 * 1024


class RepeatableBody:
    """A request's body that can be read more than once.

    Args:
        receive: reads it for the first time.

    Attributes:
        whole: everything that was read is still here.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []
        self._bytes = 0
        self.whole = True

    def from_the_start(self) -> Receive:
        """Return a `receive` that begins with the body's first byte. Use one at a time."""
        position = 0

        async def receive() -> Message:
            nonlocal position
            if position >= len(self._read):  # beyond it where what was read is gone
                message = await self._receive()
                if not self._keep(message):
                    return message
            position += 1
            return self._read[position - 1]

        return receive

    def _keep(self, message: Message) -> bool:
        if message["type"] == "http.request" and self.whole:
            self._bytes += len(message.get("body", b""))
            if self._bytes <= MOST_BYTES:
                self._read.append(message)
                return True
            self.whole = False
            self._read.clear()
        return False
