"""Locks, events, semaphores and queues: free, fought for, handed over."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Timed

SUBJECT = "Locks and queues"


async def lock_free(count: int) -> None:
    lock = asyncio.Lock()
    for _ in range(count):
        async with lock:
            pass


async def lock_fought(count: int) -> None:
    """Two tasks; whoever gives the lock back waits for it again at once."""
    lock = asyncio.Lock()

    async def fight() -> None:
        for _ in range(count // 2):
            async with lock:
                await asyncio.sleep(0)

    await asyncio.gather(fight(), fight())


async def lock_handed_over(count: int) -> None:
    """Ten tasks in line for one lock; nobody does anything else."""
    lock = asyncio.Lock()

    async def take_turns() -> None:
        for _ in range(count // 10):
            await lock.acquire()
            lock.release()

    await lock.acquire()
    tasks = [asyncio.create_task(take_turns()) for _ in range(10)]
    await asyncio.sleep(0)
    lock.release()
    for task in tasks:
        await task


async def event_pingpong(count: int) -> None:
    ping, pong = asyncio.Event(), asyncio.Event()

    async def answer() -> None:
        for _ in range(count):
            await ping.wait()
            ping.clear()
            pong.set()

    answering = asyncio.create_task(answer())
    for _ in range(count):
        ping.set()
        await pong.wait()
        pong.clear()
    await answering


async def semaphore_free(count: int) -> None:
    semaphore = asyncio.Semaphore(2)
    for _ in range(count):
        async with semaphore:
            pass


async def semaphore_fought(count: int) -> None:
    """Ten tasks, two permits."""
    semaphore = asyncio.Semaphore(2)

    async def fight() -> None:
        for _ in range(count // 10):
            async with semaphore:
                await asyncio.sleep(0)

    await asyncio.gather(*(fight() for _ in range(10)))


async def condition_notify(count: int) -> None:
    """One task waits for a condition, the other notifies it."""
    condition = asyncio.Condition()
    number = 0

    async def follow() -> None:
        seen = 0
        while seen < count:
            async with condition:
                while number == seen:
                    await condition.wait()
                seen = number

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for _ in range(count):
        async with condition:
            number += 1
            condition.notify()
        await asyncio.sleep(0)
    await following


async def hand_over(count: int, maxsize: int) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize)

    async def produce() -> None:
        for i in range(count):
            await queue.put(i)

    producing = asyncio.create_task(produce())
    for i in range(count):
        assert await queue.get() == i
    await producing


async def queue_1(count: int) -> None:
    """Room for one item: every item wakes the other side."""
    await hand_over(count, 1)


async def queue_100(count: int) -> None:
    await hand_over(count, 100)


async def queue_nowait(count: int) -> None:
    queue: asyncio.Queue[None] = asyncio.Queue()
    for _ in range(count):
        queue.put_nowait(None)
        queue.get_nowait()


CASES: tuple[Case, ...] = (
    Timed("lock_free", SUBJECT, lock_free, 50_000),
    Timed("lock_fought", SUBJECT, lock_fought, 10_000),
    Timed("lock_handed_over", SUBJECT, lock_handed_over, 10_000),
    Timed("event_pingpong", SUBJECT, event_pingpong, 10_000),
    Timed("semaphore_free", SUBJECT, semaphore_free, 50_000),
    Timed("semaphore_fought", SUBJECT, semaphore_fought, 10_000),
    Timed("condition_notify", SUBJECT, condition_notify, 5_000),
    Timed("queue_1", SUBJECT, queue_1, 10_000),
    Timed("queue_100", SUBJECT, queue_100, 20_000),
    Timed("queue_nowait", SUBJECT, queue_nowait, 50_000),
)
