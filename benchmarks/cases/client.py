"""The loop as client: it connects to a native server and closes, one connection after the other."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Client

SUBJECT = "Client: connect, close"
HOST = "127.0.0.1"
CONNECTIONS = 200


async def client_connect(port: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        transport, protocol = await loop.create_connection(Visitor, HOST, port)
        transport.close()
        await protocol.gone


class Visitor(asyncio.Protocol):
    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)


async def client_connect_streams(port: int, count: int) -> None:
    for _ in range(count):
        _, writer = await asyncio.open_connection(HOST, port)
        writer.close()
        await writer.wait_closed()


CASES: tuple[Case, ...] = (
    Client("client_connect", SUBJECT, client_connect, CONNECTIONS),
    Client("client_connect_streams", SUBJECT, client_connect_streams, CONNECTIONS),
)
