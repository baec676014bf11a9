"""Back pressure for WebSockets through Serve's proxy, in both directions.

By itself Serve has none. Its proxy reads from a client as fast as the client sends, and the replica takes all of that
into a queue without a bound. What the replica sends goes through another queue without a bound, and waits in the proxy
for a client that may not read. So both ends count here, and tell each other by ASGI messages of our own, which Serve
passes on like any other:

- the replica says how many bytes it has taken out of its queue (`TAKEN`); the proxy reads no more from the client while
  more than `WINDOW_BYTES` are on their way;
- the proxy says how many bytes the client's connection has taken (`SENT`); the replica sends no more while more than
  `WINDOW_BYTES` are on their way.

`ProxyFlow` is the proxy's end, `ReplicaFlow` the replica's. Behind another proxy (docs/haproxy.md) there is no
`ProxyFlow`; then nothing tells what a client has taken, and `ReplicaFlow.counted` is False.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

WINDOW_BYTES = 256 * 1024  #: 5 s of PCM at 24 kHz
_TOLD_EVERY = WINDOW_BYTES // 4
_EACH = 64  #: bytes that a message costs beside its content

KEY = "cosygraph.flow"  #: of the ASGI scope: the proxy counts
OPEN = "cosygraph.flow.open"  #: from the replica: a session has begun
TAKEN = "cosygraph.flow.taken"
SENT = "cosygraph.flow.sent"


class Stalled(Exception):
    """The client has taken nothing for as long as it may."""


def size(message: Message) -> int:
    """Return the bytes that a message is counted with."""
    text, data = message.get("text"), message.get("bytes")
    return _EACH + len(text or "") + len(data or b"")


class ProxyFlow:
    """The proxy's end of one WebSocket.

    Args:
        receive: from the client.
        send: to the client; returns when the connection has taken the message.

    Attributes:
        session_id: the session's id, once the replica has told it.
        gone: the client is gone, or its connection was cut; what is sent to it is dropped.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._reading: asyncio.Task[Message] | None = None
        self._changed = asyncio.Event()
        self._read = self._taken = 0
        self._sent = self._told = 0
        self._stall_s: float | None = None
        self.session_id: str | None = None
        self.gone = False

    async def receive(self) -> Message:
        """Return the client's next message, or ours about what was sent. Waits while too much was not taken yet."""
        while True:
            if self._sent - self._told >= _TOLD_EVERY:
                self._told = self._sent
                return {"type": SENT, "count": self._sent}
            if self._reading is None and self._read - self._taken < WINDOW_BYTES:
                self._reading = asyncio.ensure_future(self._receive())
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            waited: set[asyncio.Future[Any]] = {changed} if self._reading is None else {changed, self._reading}
            try:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if self._reading is not None and self._reading.done():
                message, self._reading = self._reading.result(), None
                self._read += size(message)
                return message

    async def send(self, message: Message) -> None:
        """Send a message of the replica's, or take it as ours. A client that does not take it is cut off."""
        if message["type"] == TAKEN:
            self._taken = message["count"]
            self._changed.set()
            return
        if message["type"] == OPEN:
            self.session_id, self._stall_s = message["session_id"], message["stall_s"]
            return
        if self.gone:
            return
        try:
            # The replica gives up first, and its farewell waits behind what is not taken.
            async with asyncio.timeout(None if self._stall_s is None else self._stall_s + 5):
                await self._send(message)
        except TimeoutError:
            self.gone = True
            self._cut()
            return
        except OSError:  # uvicorn's ClientDisconnected
            self.gone = True
            return
        self._sent += size(message)
        if self._sent - self._told >= _TOLD_EVERY:
            self._changed.set()

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()

    def _cut(self) -> None:
        """Cut the connection. Closing it would wait until the client has read what is there, which it does not."""
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)  # uvicorn's
        if transport is not None:
            transport.abort()


class ReplicaFlow:
    """The replica's end of one WebSocket.

    Args:
        scope: the WebSocket's.
        receive: from Serve.
        send: to Serve.

    Attributes:
        counted: the proxy tells what the client has taken.
        hurried: messages that no text before them may hold back, and that wait to be received.
        left: the client has left.
        ending: the session's last messages are sent, whatever the client takes.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.counted = KEY in scope
        self.hurried = 0
        self.left = self.ending = False
        self._receive, self._send = receive, send
        self._hurries: Callable[[Message], bool] = lambda message: False
        self._on_hurry: Callable[[], None] = lambda: None
        self._stall_s = math.inf
        self._messages: asyncio.Queue[tuple[Message | Exception, bool]] = asyncio.Queue()  # and whether it hurries
        self._room = asyncio.Event()
        self._sent = self._acknowledged = 0
        self._taken = self._told = 0
        self._pump: asyncio.Task[None] | None = None

    async def open(self, session_id: str, stall_s: float) -> None:
        """Begin a session, and tell the proxy of it.

        Args:
            session_id: joins its traces.
            stall_s: the longest wait for a client that takes nothing.
        """
        self._stall_s = stall_s
        if self.counted:
            await self._send({"type": OPEN, "session_id": session_id, "stall_s": stall_s})

    def watch(self, hurries: Callable[[Message], bool], on_hurry: Callable[[], None]) -> None:
        """Count the messages that hurry in `hurried`, from when they are here until they are received.

        Args:
            hurries: tells them from others.
            on_hurry: called when one has come.
        """
        self._hurries, self._on_hurry = hurries, on_hurry

    def close(self) -> None:
        """Stop reading."""
        if self._pump is not None:
            self._pump.cancel()

    async def _read(self) -> None:
        """Take everything that comes: what the proxy tells must not wait behind messages that nobody reads yet."""
        try:
            while True:
                message = await self._receive()
                if message["type"] == SENT:
                    self._acknowledged = message["count"]
                    self._room.set()
                    continue
                hurries = self._hurries(message)
                self._messages.put_nowait((message, hurries))
                if hurries:
                    self.hurried += 1
                    self._on_hurry()
                if message["type"] == "websocket.disconnect":
                    self.left = True
                    self._room.set()
                    return
        except Exception as error:
            self._messages.put_nowait((error, False))

    async def receive(self) -> Message:
        """Return the client's next message."""
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._read())
        message, hurries = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        self._taken += size(message)
        self.hurried -= hurries
        if self.counted and self._taken - self._told >= _TOLD_EVERY:
            self._told = self._taken
            await self._send({"type": TAKEN, "count": self._taken})
        return message

    async def send(self, message: Message) -> None:
        """Send a message; waits while too much of what was sent is not taken yet.

        Raises:
            Stalled: nothing was taken for `stall_s`.
        """
        if self.counted and message["type"] == "websocket.send" and not self.ending:
            await self._wait_for_room(size(message))
        self._sent += size(message)
        await self._send(message)

    async def _wait_for_room(self, needed: int) -> None:
        waits_since, acknowledged = time.monotonic(), self._acknowledged
        # What is not told yet may be taken all the same. A message larger than the window goes when that is all.
        while (under_way := self._sent - self._acknowledged) >= _TOLD_EVERY and under_way + needed > WINDOW_BYTES:
            self._room.clear()
            try:
                async with asyncio.timeout(max(0.0, min(3600.0, waits_since + self._stall_s - time.monotonic()))):
                    await self._room.wait()
            except TimeoutError:
                raise Stalled from None
            if self.left:
                return
            if self._acknowledged > acknowledged:
                waits_since, acknowledged = time.monotonic(), self._acknowledged
