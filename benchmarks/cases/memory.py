"""What a hundred thousand of something cost, in bytes each."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Held

SUBJECT = "Memory"
COUNT = 100_000
HOUR_SECONDS = 3600


async def _nothing() -> None:
    pass


async def tasks(count: int) -> list[object]:
    """Created and not yet started: the task, its coroutine, and its place in the ready queue."""
    loop = asyncio.get_running_loop()
    return [loop.create_task(_nothing()) for _ in range(count)]


async def sleeping_tasks(count: int) -> list[object]:
    """Suspended in `asyncio.sleep`: the task, two coroutine frames, a future and a timer."""
    loop = asyncio.get_running_loop()
    sleeping: list[object] = [loop.create_task(asyncio.sleep(HOUR_SECONDS)) for _ in range(count)]
    await asyncio.sleep(0)
    return sleeping


async def timers(count: int) -> list[object]:
    loop = asyncio.get_running_loop()
    return [loop.call_later(HOUR_SECONDS + number, _never) for number in range(count)]


async def futures(count: int) -> list[object]:
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


async def locks(count: int) -> list[object]:
    """Never used, as most are."""
    return [asyncio.Lock() for _ in range(count)]


async def events(count: int) -> list[object]:
    return [asyncio.Event() for _ in range(count)]


async def queues(count: int) -> list[object]:
    """Empty."""
    return [asyncio.Queue[None]() for _ in range(count)]


def _never() -> None:
    raise AssertionError("a timer of an hour fired")


CASES: tuple[Case, ...] = (
    Held("mem_task", SUBJECT, tasks, COUNT),
    Held("mem_sleeping_task", SUBJECT, sleeping_tasks, COUNT),
    Held("mem_timer", SUBJECT, timers, COUNT),
    Held("mem_future", SUBJECT, futures, COUNT),
    Held("mem_lock", SUBJECT, locks, COUNT),
    Held("mem_event", SUBJECT, events, COUNT),
    Held("mem_queue", SUBJECT, queues, COUNT),
)
