"""Timeouts, shields, groups of tasks, cancelling."""

from __future__ import annotations

import asyncio
import contextvars

from benchmarks.case import Case, Timed

SUBJECT = "Waiting"


async def nothing() -> None:
    pass


async def timeout(count: int) -> None:
    """A timeout that is not reached, around nothing."""
    for _ in range(count):
        async with asyncio.timeout(10):
            pass


async def wait_for(count: int) -> None:
    """A coroutine that is ready at once."""
    for _ in range(count):
        await asyncio.wait_for(nothing(), 10)


async def shield(count: int) -> None:
    for _ in range(count):
        await asyncio.shield(nothing())


async def task_group(count: int) -> None:
    """Ten tasks a group; a task is one operation."""
    for _ in range(count // 10):
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(nothing())


async def wait_for_ten(count: int) -> None:
    """Ten tasks a wait; a task is one operation."""
    for _ in range(count // 10):
        await asyncio.wait([asyncio.create_task(nothing()) for _ in range(10)])


async def as_completed(count: int) -> None:
    """Ten coroutines an iteration; one of them is one operation."""
    for _ in range(count // 10):
        for one in asyncio.as_completed([nothing() for _ in range(10)]):
            await one


async def cancel(count: int) -> None:
    """A task that waits is cancelled and awaited."""
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        await loop.create_future()

    for _ in range(count):
        task = loop.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass


async def contexts(count: int) -> None:
    """Tasks in a context of twenty variables, each sets one."""
    variables = [contextvars.ContextVar(f"v{i}", default=0) for i in range(20)]
    for variable in variables:
        variable.set(1)

    async def change() -> None:
        variables[0].set(2)

    for _ in range(count):
        await asyncio.create_task(change())


CASES: tuple[Case, ...] = (
    Timed("timeout", SUBJECT, timeout, 10_000),
    Timed("wait_for", SUBJECT, wait_for, 10_000),
    Timed("shield", SUBJECT, shield, 10_000),
    Timed("task_group", SUBJECT, task_group, 10_000),
    Timed("wait_10", SUBJECT, wait_for_ten, 10_000),
    Timed("as_completed_10", SUBJECT, as_completed, 10_000),
    Timed("cancel", SUBJECT, cancel, 10_000),
    Timed("contexts", SUBJECT, contexts, 10_000),
)
