"""Hands a replica's arrays to replicas on other nodes, over TCP: one connection, one array.

A taker sends the reference's token, file number and inode (`Request`). The server answers with one byte, 1 if the
array is still there, and then with its bytes, straight from its memory file (sendfile(2)). The token is random for
each process and travels in references alone, so nobody else can ask. Nothing is encrypted: the traffic goes where Ray's
own goes, and needs the same protection.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import socket
import socketserver
import struct
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

log = logging.getLogger("ray.serve")

TOKEN_BYTES = 16
#: token, number of the memory file, its inode
REQUEST = struct.Struct(f"!{TOKEN_BYTES}siQ")
#: Seconds for one array. On a network of 1 Gbit/s 640 kB take 5 ms; a node that is gone never answers.
TIMEOUT_S = 3.0
#: Connections at a time; more of them are closed at once, and the array is made again.
MAX_CONNECTIONS = 64


class ArrayServer:
    """Serves the arrays of one process from a thread of its own.

    Args:
        host: the node's address; the port is a free one.
        duplicate: returns a new file descriptor of a memory file that is still held, or None.
    """

    def __init__(self, host: str, duplicate: Callable[[int, int], int | None]) -> None:
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self._duplicate = duplicate
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._answer(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                log.debug("an array's taker left early")

        self._server = Server((host, 0), Handler)
        self.address = (host, int(self._server.server_address[1]))
        threading.Thread(target=self._server.serve_forever, name="array-server", daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        if not self._free.acquire(blocking=False):
            return
        try:
            connection.settimeout(TIMEOUT_S)
            token, fd, inode = REQUEST.unpack(_exactly(connection, REQUEST.size))
            found = self._duplicate(fd, inode) if hmac.compare_digest(token, self.token) else None
            if found is None:
                connection.sendall(b"\0")
                return
            with os.fdopen(found, "rb") as file:
                connection.sendall(b"\1")
                connection.sendfile(file)
        finally:
            self._free.release()

    def close(self) -> None:
        """Stop, and close the port."""
        self._server.shutdown()
        self._server.server_close()


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := connection.recv(size - len(data))):
            raise ConnectionError("the taker left before its request was whole")
        data += more
    return data


async def fetch(address: tuple[str, int], token: bytes, fd: int, inode: int, size: int) -> npt.NDArray[np.uint8] | None:
    """Fetch an array's bytes from another node.

    Args:
        address: the server's host and port.
        token: its token.
        fd: the array's memory file there.
        inode: of that file.
        size: bytes.

    Returns:
        uint8 (size,), or None if the array is gone there.

    Raises:
        OSError: the server can't be reached, or broke off.
        TimeoutError: it took longer than `TIMEOUT_S`.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(TIMEOUT_S):
            await loop.sock_connect(connection, address)
            await loop.sock_sendall(connection, REQUEST.pack(token, fd, inode))
            there = await loop.sock_recv(connection, 1)
            if not there:
                raise ConnectionError("the array's server broke off")
            if there == b"\0":
                return None
            data = np.empty(size, np.uint8)
            view = data.data
            while view:
                got = await loop.sock_recv_into(connection, view)
                if not got:
                    raise ConnectionError("the array's server broke off")
                view = view[got:]
    return data
