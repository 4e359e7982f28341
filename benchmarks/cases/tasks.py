"""Making tasks, waiting for them, and giving way to the others."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Timed

SUBJECT = "Tasks"


async def nothing() -> None:
    pass


async def task_await(count: int) -> None:
    """One task at a time: made, awaited."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.create_task(nothing())


async def task_eager(count: int) -> None:
    """One task at a time, done when it is made: what `asyncio.eager_task_factory` (3.12) is for."""
    loop = asyncio.get_running_loop()
    if not hasattr(asyncio, "eager_task_factory"):
        raise NotImplementedError("eager tasks came with 3.12")
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        for _ in range(count):
            await loop.create_task(nothing())
    finally:
        loop.set_task_factory(None)


async def task_spawn(count: int) -> None:
    """All tasks are made before the first runs."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(nothing()) for _ in range(count)]
    for task in tasks:
        await task


async def gather(count: int) -> None:
    await asyncio.gather(*(nothing() for _ in range(count)))


async def give_way(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def sleep0_2_tasks(count: int) -> None:
    await asyncio.gather(give_way(count // 2), give_way(count // 2))


async def sleep0_1000_tasks(count: int) -> None:
    await asyncio.gather(*(give_way(count // 1_000) for _ in range(1_000)))


CASES: tuple[Case, ...] = (
    Timed("task_await", SUBJECT, task_await, 10_000),
    Timed("task_eager", SUBJECT, task_eager, 10_000),
    Timed("task_spawn_100k", SUBJECT, task_spawn, 100_000),
    Timed("gather_10k", SUBJECT, gather, 10_000),
    Timed("sleep0_2_tasks", SUBJECT, sleep0_2_tasks, 50_000),
    # 100 turns each: making the thousand tasks is then a few per cent of it.
    Timed("sleep0_1000_tasks", SUBJECT, sleep0_1000_tasks, 100_000),
)
