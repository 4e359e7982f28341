"""A future completed by the loop, and two tasks that wake each other."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Timed

SUBJECT = "Tasks"


async def future_roundtrip(count: int) -> None:
    """A task waits for a future that the loop's next callback completes."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


async def future_pingpong(count: int) -> None:
    """Two tasks; each completes the future that the other waits for. A round is one operation."""
    loop = asyncio.get_running_loop()
    ping: asyncio.Future[asyncio.Future[None] | None] = loop.create_future()

    async def answer() -> None:
        nonlocal ping
        while (pong := await ping) is not None:
            ping = loop.create_future()
            pong.set_result(None)

    answering = loop.create_task(answer())
    for _ in range(count):
        pong: asyncio.Future[None] = loop.create_future()
        ping.set_result(pong)
        await pong
    ping.set_result(None)
    await answering


CASES: tuple[Case, ...] = (
    Timed("future_roundtrip", SUBJECT, future_roundtrip, 10_000),
    Timed("future_pingpong", SUBJECT, future_pingpong, 10_000),
)
