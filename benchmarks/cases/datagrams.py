"""UDP echo: one socket, many peers with one datagram in flight each."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from benchmarks.case import Announce, Case, Served
from benchmarks.cases.tcp import KIB, size_text

PEERS = (1, 100)
SIZES_BYTES = (64, KIB)
RECEIVE_BUFFER_BYTES = 1024 * KIB
"""As much as the kernel grants: a hundred peers at once shall not overflow it. Lost datagrams are sent again, late."""


async def serve_datagrams(announce: Announce) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(DatagramEcho, ("127.0.0.1", 0))
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    announce(transport.get_extra_info("sockname")[1])
    await asyncio.Event().wait()


class DatagramEcho(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports inherit from asyncio's.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.transport.sendto(data, addr)


CASES: tuple[Case, ...] = tuple(
    Served(
        name=f"udp/peers={peers}/size={size_text(size_bytes)}",
        subject="UDP echo",
        serve=serve_datagrams,
        mode="echo",
        connections=peers,
        size_bytes=size_bytes,
        native=True,
        transport="udp",
    )
    for peers in PEERS
    for size_bytes in SIZES_BYTES
)
