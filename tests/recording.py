"""Protocols that record what a transport tells them, two of them connected over loopback, and something to send.

What must stay true: everything to wait for is a future here, so that no test has to sleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest


class Record:
    """What both kinds of protocol share. `events` holds the names of the calls, in order, without the data."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.keep_open = keep_open
        self.events: list[str] = []
        self.data = bytearray()
        self.chunks: list[int] = []
        self.error: BaseException | None = None
        self.transport: Any = None
        self.connected = self.loop.create_future()
        self.eof = self.loop.create_future()
        self.closed = self.loop.create_future()
        self.paused = self.loop.create_future()
        self.resumed = self.loop.create_future()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def connection_made(self, transport: Any) -> None:
        self.events.append("connection_made")
        self.transport = transport
        self.connected.set_result(None)

    def eof_received(self) -> bool:
        self.events.append("eof_received")
        if not self.eof.done():
            self.eof.set_result(None)
        return self.keep_open

    def connection_lost(self, error: BaseException | None) -> None:
        self.events.append("connection_lost")
        self.error = error
        self.closed.set_result(error)
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(EOFError(f"connection lost after {len(self.data)} bytes"))
        self._waiting.clear()

    def pause_writing(self) -> None:
        self.events.append("pause_writing")
        if not self.paused.done():
            self.paused.set_result(None)

    def resume_writing(self) -> None:
        self.events.append("resume_writing")
        if not self.resumed.done():
            self.resumed.set_result(None)

    async def received(self, count: int) -> bytes:
        """Wait until `count` bytes have arrived in all, and give everything that has."""
        if len(self.data) < count:
            future = self.loop.create_future()
            self._waiting.append((count, future))
            await future
        return bytes(self.data)

    def _arrived(self, data: bytes | memoryview) -> None:
        if not self.events or self.events[-1] != "data":
            self.events.append("data")
        self.data += data
        self.chunks.append(len(data))
        for entry in list(self._waiting):
            count, future = entry
            if len(self.data) >= count:
                self._waiting.remove(entry)
                if not future.done():
                    future.set_result(None)


class Recording(Record, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self._arrived(data)


class BufferedRecording(Record, asyncio.BufferedProtocol):
    def __init__(self, *, keep_open: bool = False, size: int = 65536) -> None:
        super().__init__(keep_open=keep_open)
        self.buffer = bytearray(size)
        self.hints: list[int] = []

    def get_buffer(self, sizehint: int) -> memoryview:
        self.hints.append(sizehint)
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self.buffer)
        self._arrived(memoryview(self.buffer)[:nbytes])


BOTH_PROTOCOLS = pytest.mark.parametrize("protocol", [Recording, BufferedRecording], ids=["protocol", "buffered"])


def payload(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@contextlib.asynccontextmanager
async def connected(
    client: Callable[[], Any] = Recording, server: Callable[[], Any] = Recording, **kwargs: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """A client's and a server's protocol, connected over loopback. Both are gone, and have heard so, at the end."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Any] = loop.create_future()

    def accept() -> Any:
        protocol = server()
        accepted.set_result(protocol)
        return protocol

    listening = await loop.create_server(accept, "127.0.0.1", 0)
    near = far = None
    try:
        _, near = await loop.create_connection(client, *listening.sockets[0].getsockname()[:2], **kwargs)
        far = await accepted
        if isinstance(far, Record):
            await far.connected
        yield near, far
    finally:
        listening.close()
        for protocol in (near, far):
            if isinstance(protocol, Record) and not protocol.closed.done():
                protocol.transport.abort()
                await protocol.closed
        await listening.wait_closed()
