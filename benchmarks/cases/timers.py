"""`loop.call_later` with 100,000 timers at once, and `asyncio.sleep`."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Timed

SUBJECT = "Scheduling"
MANY = 100_000
WINDOW_SECONDS = 0.05
PATIENCE_SECONDS = 0.2
SLEEPERS = 100
NAP_SECONDS = 0.001


def deadline(number: int, count: int) -> float:
    # 7919 is prime: the deadlines visit the whole window in a mixed order.
    return number * 7919 % count / count * WINDOW_SECONDS


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
        loop.call_later(deadline(number, count), fire)
    await finished


async def timers_cancel(count: int) -> None:
    """All cancelled before the first is due, as the time-outs of requests that are answered.

    Loops that only mark a timer at cancel() pay for it when its deadline comes; so the deadlines are waited for.
    """
    loop = asyncio.get_running_loop()

    def never() -> None:
        raise AssertionError("a cancelled timer fired")

    timers = [loop.call_later(PATIENCE_SECONDS + deadline(number, count), never) for number in range(count)]
    for timer in timers:
        timer.cancel()
    await asyncio.sleep(PATIENCE_SECONDS + 2 * WINDOW_SECONDS)


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
