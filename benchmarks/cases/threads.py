"""`loop.call_soon_threadsafe`: the loop asks a thread, the thread answers through the loop."""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue

from benchmarks.case import Case, Timed

SUBJECT = "Threads"


async def threadsafe_roundtrip(count: int) -> None:
    """The CPU time is that of both threads; the process is pinned to one CPU."""
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


CASES: tuple[Case, ...] = (Timed("threadsafe_roundtrip", SUBJECT, threadsafe_roundtrip, 2_000),)
