"""Sleeping and waiting, written in Rust. Like `asyncio.tasks`, whose names are here too.

asyncio made these stricter over the years: `wait` refuses coroutines since 3.11, and outside a running loop the others
fail since 3.14 or take a loop of asyncio's own. hayase's accept what any version accepted.
"""

import asyncio
from asyncio.tasks import *
from asyncio.tasks import as_completed as _asyncio_as_completed
from asyncio.tasks import ensure_future as _asyncio_ensure_future
from asyncio.tasks import gather as _asyncio_gather
from asyncio.tasks import shield as _asyncio_shield
from asyncio.tasks import sleep as _asyncio_sleep
from asyncio.tasks import wait as _asyncio_wait
from asyncio.tasks import wait_for as _asyncio_wait_for
from typing import TYPE_CHECKING

from . import _compat
from .policy import get_event_loop

if not TYPE_CHECKING:  # to a type checker they are asyncio's, with all their overloads; `wait`'s forbid bare coroutines
    from ._core import as_completed as as_completed
    from ._core import ensure_future as ensure_future
    from ._core import gather as gather
    from ._core import shield as shield
    from ._core import sleep
    from ._core import wait as wait

    if _compat.WAIT_FOR_RUNS_INLINE:
        from ._core import wait_for

    for _function, _theirs in (
        (as_completed, _asyncio_as_completed),
        (ensure_future, _asyncio_ensure_future),
        (gather, _asyncio_gather),
        (shield, _asyncio_shield),
        (sleep, _asyncio_sleep),
        (wait, _asyncio_wait),
        (wait_for, _asyncio_wait_for),
    ):
        if _function is not _theirs:
            _compat.resemble(_function, _theirs)

    def _choose_loop(*awaitables):
        """Outside a running loop, make sure that asyncio finds a current loop, and that it is hayase's if made now.

        Futures know their loop, so they need no choice.
        """
        if asyncio._get_running_loop() is None and not all(map(asyncio.isfuture, awaitables)):
            get_event_loop()

    def _gather_elsewhere(coros_or_futures, return_exceptions):
        """`gather` without a running loop (then for the loop of `get_event_loop()`), or on a loop of somebody else."""
        _choose_loop(*coros_or_futures)
        return _asyncio_gather(*coros_or_futures, return_exceptions=return_exceptions)

    def _shield_elsewhere(arg):
        """As `_gather_elsewhere`."""
        _choose_loop(arg)
        return _asyncio_shield(arg)
