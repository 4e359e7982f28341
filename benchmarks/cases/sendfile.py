"""`loop.sendfile` and `loop.sock_sendfile`: one byte asks for a whole file.

The native echo server has no such answer, so there is no limit beside these. Before a server listens it sends one byte
of the file through the loop: a loop without sendfile says so then.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from benchmarks.case import Announce, Case, Served
from benchmarks.cases.tcp import BACKLOG, KIB, size_text

CONNECTIONS = 10
SIZES_BYTES = (64 * KIB, 1024 * KIB)
PERIOD = 251
"""Of what the load generator expects (crates/loadgen/src/conversation.rs)."""


async def serve_sendfile(size_bytes: int, announce: Announce) -> None:
    loop = asyncio.get_running_loop()
    with _file(size_bytes) as file:
        ours, theirs = _connected_pair()
        with theirs:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            await loop.sendfile(transport, file, 0, 1)
            transport.close()
        server = await loop.create_server(lambda: Sender(file, size_bytes), "127.0.0.1", 0, backlog=BACKLOG)
        announce(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()


class Sender(asyncio.Protocol):
    transport: asyncio.Transport
    sending: asyncio.Task[int]

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self.file = _reopen(file)
        self.size_bytes = size_bytes
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.sending = self.loop.create_task(self.loop.sendfile(self.transport, self.file, 0, self.size_bytes))

    def connection_lost(self, exc: Exception | None) -> None:
        self.file.close()


async def serve_sock_sendfile(size_bytes: int, announce: Announce) -> None:
    loop = asyncio.get_running_loop()
    sending: set[asyncio.Task[None]] = set()
    with _file(size_bytes) as file, socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        ours, theirs = _connected_pair()
        with ours, theirs:
            await loop.sock_sendfile(ours, file, 0, 1)
        listener.setblocking(False)
        announce(listener.getsockname()[1])
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(_send(loop, connection, _reopen(file), size_bytes))
            sending.add(task)
            task.add_done_callback(sending.discard)


async def _send(loop: asyncio.AbstractEventLoop, connection: socket.socket, file: BinaryIO, size_bytes: int) -> None:
    with connection, file:
        while await loop.sock_recv(connection, 1):
            await loop.sock_sendfile(connection, file, 0, size_bytes)


@contextlib.contextmanager
def _file(size_bytes: int) -> Iterator[BinaryIO]:
    pattern = bytes(range(PERIOD))
    with tempfile.TemporaryFile() as file:
        file.write((pattern * (size_bytes // PERIOD + 1))[:size_bytes])
        file.flush()
        yield _reopen(cast(BinaryIO, file))


def _reopen(file: BinaryIO) -> BinaryIO:
    """The same file at a position of its own."""
    return open(f"/proc/self/fd/{file.fileno()}", "rb")


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


CASES: tuple[Case, ...] = tuple(
    Served(
        name=f"{name}/size={size_text(size_bytes)}",
        subject="Sending a file",
        serve=functools.partial(serve, size_bytes),
        mode="download",
        connections=CONNECTIONS,
        size_bytes=size_bytes,
        native=False,
    )
    for name, serve in (("sendfile", serve_sendfile), ("sock_sendfile", serve_sock_sendfile))
    for size_bytes in SIZES_BYTES
)
