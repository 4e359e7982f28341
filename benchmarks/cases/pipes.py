"""Two pipes within one loop: what one end writes, the other answers. An operation is there and back, 64 bytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import cast

from benchmarks.case import Case, Timed

MESSAGE = b"x" * 64


async def pipe_pingpong(count: int) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    there_read, there_write = os.pipe()
    back_read, back_write = os.pipe()
    ping = await _writer(loop, there_write)
    pong = await _writer(loop, back_write)
    left = count

    def on_back(data: bytes) -> None:
        nonlocal left
        left -= 1
        if left:
            ping.write(data)
        else:
            done.set_result(None)

    readers = [await _reader(loop, there_read, pong.write), await _reader(loop, back_read, on_back)]
    ping.write(MESSAGE)
    await done
    for transport in (ping, pong, *readers):
        transport.close()
    await asyncio.gather(*(cast(PipeEnd, transport.get_protocol()).gone for transport in (ping, pong, *readers)))


class PipeEnd(asyncio.Protocol):
    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self.receive = receive
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)


async def _reader(
    loop: asyncio.AbstractEventLoop, descriptor: int, receive: Callable[[bytes], None]
) -> asyncio.ReadTransport:
    transport, _ = await loop.connect_read_pipe(lambda: PipeEnd(receive), os.fdopen(descriptor, "rb", 0))
    return transport


async def _writer(loop: asyncio.AbstractEventLoop, descriptor: int) -> asyncio.WriteTransport:
    transport, _ = await loop.connect_write_pipe(lambda: PipeEnd(lambda data: None), os.fdopen(descriptor, "wb", 0))
    return transport


CASES: tuple[Case, ...] = (Timed("pipe_pingpong", "Pipes", pipe_pingpong, 2_000),)
