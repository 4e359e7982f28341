"""TCP echo in the ways in which asyncio programs are written: protocols, and streams read in chunks, frames and lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeAlias, cast

from benchmarks.case import Announce, Case, LoadMode, Serve, Served

KIB = 1024
CHUNK_BYTES = 64 * KIB
BACKLOG = 4096
"""More than the connections that the load opens at once: an overflow would cost it a second."""

CONNECTIONS = (1, 100, 1_000)
SIZES_BYTES = (64, KIB, 16 * KIB, 100 * KIB)
FRAME_SIZES_BYTES = (64, KIB, 16 * KIB)
"""Also of lines, which must stay below the limit of a `StreamReader`."""


async def serve_protocol(announce: Announce) -> None:
    await _serve(EchoProtocol, announce)


async def serve_on_request(announce: Announce) -> None:
    await _serve(RequestedEchoProtocol, announce)


async def serve_buffered(announce: Announce) -> None:
    await _serve(BufferedEchoProtocol, announce)


async def serve_streams(announce: Announce) -> None:
    await _serve_streams(echo_streams, announce)


async def serve_frames(announce: Announce) -> None:
    await _serve_streams(echo_frames, announce)


async def serve_lines(announce: Announce) -> None:
    await _serve_streams(echo_lines, announce)


class EchoProtocol(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports inherit from asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class RequestedEchoProtocol(EchoProtocol):
    """Reads on request, as anyio's streams do: resumes for one chunk, pauses when it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()
        self.transport.write(data)
        self.loop.call_soon(self.transport.resume_reading)


class BufferedEchoProtocol(asyncio.BufferedProtocol):
    transport: asyncio.Transport

    def __init__(self) -> None:
        # One buffer a connection. At a thousand connections, larger ones would measure the caches of the machine.
        self.buffer = memoryview(bytearray(CHUNK_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        # A copy: some loops keep a reference to what the kernel did not take, and the buffer is about to change.
        self.transport.write(bytes(self.buffer[:nbytes]))


async def echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Four bytes of length, then as many as they say; what binary protocols do."""
    while True:
        try:
            head = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(head))
        except asyncio.IncompleteReadError:
            break
        writer.write(head + body)
        await writer.drain()
    writer.close()


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


Callback: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]


async def _serve_streams(callback: Callback, announce: Announce) -> None:
    server = await asyncio.start_server(callback, "127.0.0.1", 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


async def _serve(protocol: type[asyncio.BaseProtocol], announce: Announce) -> None:
    # The loop binds: with sock= some loops behave differently (asyncio leaves Nagle on).
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def size_text(size_bytes: int) -> str:
    return f"{size_bytes}B" if size_bytes < KIB else f"{size_bytes // KIB}KiB"


def _case(way: str, serve: Serve, mode: LoadMode, connections: int, size_bytes: int) -> Case:
    return Served(
        name=f"tcp_{way}/conns={connections}/size={size_text(size_bytes)}",
        subject=f"TCP echo, {way.replace('_', ', ')}",
        serve=serve,
        mode=mode,
        connections=connections,
        size_bytes=size_bytes,
        native=True,
    )


def _cases(way: str, serve: Serve) -> list[Case]:
    return [
        _case(way, serve, "echo", connections, size_bytes) for connections in CONNECTIONS for size_bytes in SIZES_BYTES
    ]


CASES: tuple[Case, ...] = (
    *_cases("protocol", serve_protocol),
    *_cases("buffered", serve_buffered),
    _case("on_request", serve_on_request, "echo", 100, KIB),
    *_cases("streams", serve_streams),
    *(_case("streams_framed", serve_frames, "framed", 100, size_bytes) for size_bytes in FRAME_SIZES_BYTES),
    *(_case("streams_lines", serve_lines, "lines", 100, size_bytes) for size_bytes in FRAME_SIZES_BYTES),
)
