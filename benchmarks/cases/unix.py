"""Echo over Unix sockets. The address is an abstract name: no file is left of a server that is killed."""

from __future__ import annotations

import asyncio
import os

from benchmarks.case import Announce, Case, Served
from benchmarks.cases.tcp import BACKLOG, KIB, EchoProtocol, size_text

CONNECTIONS = (1, 100)
SIZES_BYTES = (KIB, 16 * KIB)


async def serve_unix(announce: Announce) -> None:
    loop = asyncio.get_running_loop()
    name = f"hayase-benchmark-{os.getpid()}"
    server = await loop.create_unix_server(EchoProtocol, f"\0{name}", backlog=BACKLOG)
    announce(name)
    await asyncio.Event().wait()
    server.close()


CASES: tuple[Case, ...] = tuple(
    Served(
        name=f"unix/conns={connections}/size={size_text(size_bytes)}",
        subject="Unix echo, protocol",
        serve=serve_unix,
        mode="echo",
        connections=connections,
        size_bytes=size_bytes,
        native=True,
        transport="unix",
    )
    for connections in CONNECTIONS
    for size_bytes in SIZES_BYTES
)
