"""`loop.call_later` with 100,000 timers at once, and `asyncio.sleep`."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Timed

SUBJECT = "Scheduling"
MANY = 100_000
WINDOW_SECONDS = 0.05
SLEEPERS = 100
NAP_SECONDS = 0.001


async def timers_fire(count: int) -> None:
    """Timers set in no order of their deadlines; all of them fire."""
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    left = count

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            finished.set_result(None)

    for number in range(count):
        # 7919 is prime: the deadlines visit the whole window in a mixed order.
        loop.call_later(number * 7919 % count / count * WINDOW_SECONDS, fire)
    await finished


async def timers_cancel(count: int) -> None:
    """Timers far in the future, all cancelled: what a server with a time-out per request does."""
    loop = asyncio.get_running_loop()

    def never() -> None:
        raise AssertionError("a cancelled timer fired")

    timers = [loop.call_later(60 + number * 7919 % count / count, never) for number in range(count)]
    for timer in timers:
        timer.cancel()
    # Loops that only mark a timer at cancel() tidy up in their next turn; that belongs to the price.
    await asyncio.sleep(0)


async def sleep_timer(count: int) -> None:
    """A hundred tasks that sleep a millisecond again and again."""

    async def sleeper() -> None:
        for _ in range(count // SLEEPERS):
            await asyncio.sleep(NAP_SECONDS)

    await asyncio.gather(*(sleeper() for _ in range(SLEEPERS)))


CASES: tuple[Case, ...] = (
    Timed("timers_fire_100k", SUBJECT, timers_fire, MANY),
    Timed("timers_cancel_100k", SUBJECT, timers_cancel, MANY),
    Timed("sleep_timer", SUBJECT, sleep_timer, 5_000),
)
