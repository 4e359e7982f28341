"""`loop.call_soon`: the price of a callback when it comes alone, and in a crowd."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Timed

SUBJECT = "Scheduling"
CROWD = 1_000


async def call_soon_chain(count: int) -> None:
    """Each callback schedules the next: one turn of the loop per callback."""
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            finished.set_result(None)

    loop.call_soon(step)
    await finished


async def call_soon_fanout(count: int) -> None:
    """A thousand callbacks a turn."""
    loop = asyncio.get_running_loop()

    def nothing() -> None:
        pass

    for _ in range(count // CROWD):
        finished = loop.create_future()
        for _ in range(CROWD - 1):
            loop.call_soon(nothing)
        loop.call_soon(finished.set_result, None)
        await finished


CASES: tuple[Case, ...] = (
    Timed("call_soon_chain", SUBJECT, call_soon_chain, 20_000),
    Timed("call_soon_fanout", SUBJECT, call_soon_fanout, 50_000),
)
