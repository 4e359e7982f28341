"""Sleeping and waiting. Like `asyncio.tasks`, whose names are here too.

`sleep`, `wait_for`, `gather` and `shield` are written in Rust.

asyncio made these stricter over the years: `wait` refuses coroutines since 3.11, and outside a running loop the others
fail since 3.14 or take a loop of asyncio's own. hayase's accept what any version accepted; the work is asyncio's.
"""

import asyncio
import warnings
from asyncio.tasks import *
from asyncio.tasks import gather as _asyncio_gather
from asyncio.tasks import shield as _asyncio_shield
from asyncio.tasks import sleep as _asyncio_sleep
from asyncio.tasks import wait as _asyncio_wait
from asyncio.tasks import wait_for as _asyncio_wait_for
from typing import TYPE_CHECKING

from . import _compat
from .policy import get_event_loop

if not TYPE_CHECKING:  # to a type checker they are asyncio's, with all their overloads; `wait`'s forbid bare coroutines
    from ._core import gather as gather
    from ._core import shield as shield
    from ._core import sleep

    if _compat.WAIT_FOR_RUNS_INLINE:
        from ._core import wait_for

    for _function, _theirs in (
        (gather, _asyncio_gather),
        (shield, _asyncio_shield),
        (sleep, _asyncio_sleep),
        (wait_for, _asyncio_wait_for),
    ):
        if _function is not _theirs:
            _compat.resemble(_function, _theirs)

    async def wait(fs, *, timeout=None, return_when=asyncio.ALL_COMPLETED):
        """`asyncio.wait`, which also takes bare coroutines, as it did up to Python 3.10; each becomes a task.

        They are accepted with a DeprecationWarning: the caller has no way to tell which task is which coroutine's.
        """
        conditions = (asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED)
        # What asyncio refuses, it refuses in its own words, before any task is made.
        if not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)) and return_when in conditions:
            fs = set(fs)  # before tasks are made: the same coroutine twice is one task
            if any(asyncio.iscoroutine(f) for f in fs):
                warnings.warn(
                    "wait() was given coroutines; make tasks of them with create_task() to be able to tell them apart",
                    DeprecationWarning,
                    stacklevel=2,
                )
                loop = asyncio.get_running_loop()
                fs = {loop.create_task(f) if asyncio.iscoroutine(f) else f for f in fs}
        return await _asyncio_wait(fs, timeout=timeout, return_when=return_when)

    def _choose_loop(*awaitables):
        """Outside a running loop, make sure that asyncio finds a current loop, and that it is hayase's if made now.

        Futures know their loop, so they need no choice.
        """
        if asyncio._get_running_loop() is None and not all(map(asyncio.isfuture, awaitables)):
            get_event_loop()

    def ensure_future(coro_or_future, *, loop=None):
        """`asyncio.ensure_future`; without a running loop it is for the loop of `get_event_loop()`."""
        if loop is None:
            _choose_loop(coro_or_future)
        return asyncio.ensure_future(coro_or_future, loop=loop)

    def _gather_elsewhere(coros_or_futures, return_exceptions):
        """`gather` without a running loop (then for the loop of `get_event_loop()`), or on a loop of somebody else."""
        _choose_loop(*coros_or_futures)
        return _asyncio_gather(*coros_or_futures, return_exceptions=return_exceptions)

    def _shield_elsewhere(arg):
        """As `_gather_elsewhere`."""
        _choose_loop(arg)
        return _asyncio_shield(arg)
