"""Other threads: `loop.call_soon_threadsafe`, calls in the default executor.

The CPU time is that of all threads; the process is pinned to one CPU.
"""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue

from benchmarks.case import Case, Timed

SUBJECT = "Threads"


async def threadsafe_roundtrip(count: int) -> None:
    """The loop asks a thread, the thread answers through the loop."""
    loop = asyncio.get_running_loop()
    requests: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()

    def answer() -> None:
        while (future := requests.get()) is not None:
            loop.call_soon_threadsafe(future.set_result, None)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    for _ in range(count):
        future: asyncio.Future[None] = loop.create_future()
        requests.put(future)
        await future
    requests.put(None)
    thread.join()


def nothing() -> None:
    pass


async def run_in_executor(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.run_in_executor(None, nothing)


async def run_in_executor_100(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count // 100):
        await asyncio.gather(*(loop.run_in_executor(None, nothing) for _ in range(100)))


async def to_thread(count: int) -> None:
    for _ in range(count):
        await asyncio.to_thread(nothing)


CASES: tuple[Case, ...] = (
    Timed("threadsafe_roundtrip", SUBJECT, threadsafe_roundtrip, 2_000),
    Timed("run_in_executor", SUBJECT, run_in_executor, 2_000),
    Timed("run_in_executor_100", SUBJECT, run_in_executor_100, 2_000),
    Timed("to_thread", SUBJECT, to_thread, 2_000),
)
