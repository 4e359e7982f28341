"""Echo on the program's own sockets: `sock_accept`, `sock_recv` and `sock_sendall`."""

from __future__ import annotations

import asyncio
import socket

from benchmarks.case import Announce, Case, Served
from benchmarks.cases.tcp import BACKLOG, CHUNK_BYTES, SIZES_BYTES, size_text

CONNECTIONS = (1, 100)


async def serve_sockets(announce: Announce) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    announce(listener.getsockname()[1])
    # The loop knows its tasks only weakly.
    echoing: set[asyncio.Task[None]] = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(_echo(loop, connection))
        echoing.add(task)
        task.add_done_callback(echoing.discard)


async def _echo(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    with connection:
        while data := await loop.sock_recv(connection, CHUNK_BYTES):
            await loop.sock_sendall(connection, data)


CASES: tuple[Case, ...] = tuple(
    Served(
        name=f"sockets/conns={connections}/size={size_text(size_bytes)}",
        subject="TCP echo, sock_recv and sock_sendall",
        serve=serve_sockets,
        mode="echo",
        connections=connections,
        size_bytes=size_bytes,
        native=True,
    )
    for connections in CONNECTIONS
    for size_bytes in SIZES_BYTES
)
