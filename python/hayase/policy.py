"""Which loop is the current one when none is running: `get_event_loop()` and the policy behind it.

Stock asyncio answered this by making a loop, then with a warning, and since 3.14 with an error. hayase always makes one,
silently, in the main thread, as long as nobody called `set_event_loop`: programs of every age work. The loop that is
running wins, always.
"""

import asyncio
import atexit
import weakref
from asyncio import AbstractEventLoop

from . import _compat
from .events import new_event_loop


class EventLoopPolicy(_compat.DefaultEventLoopPolicy):  # type: ignore[misc]
    """asyncio's default policy, with hayase's loops. `hayase.install()` is the short way to use it."""

    # The base keeps the loop of each thread (asyncio resets that store in a forked child, by the name `_local`) and,
    # up to 3.13, the child watcher that other loops in the same program need.

    def new_event_loop(self) -> AbstractEventLoop:
        return new_event_loop()

    def set_event_loop(self, loop: AbstractEventLoop | None) -> None:
        super().set_event_loop(loop)
        self._local._set_called = True  # the base stopped to remember this in 3.14

    def get_event_loop(self) -> AbstractEventLoop:
        if _compat.may_create_current_loop(self):
            super().set_event_loop(made_on_demand(self.new_event_loop()))
        loop: AbstractEventLoop = super().get_event_loop()
        return loop


def made_on_demand(loop: AbstractEventLoop) -> AbstractEventLoop:
    """Close a loop that nobody asked for by name when the program ends, if the program did not."""

    made = weakref.ref(loop)  # not kept alive for it

    def close() -> None:
        loop = made()
        if loop is not None and not loop.is_running():
            loop.close()

    atexit.register(close)
    return loop


def get_event_loop() -> AbstractEventLoop:
    """The running loop; without one, the current loop of this thread, made on demand in the main thread."""
    running = asyncio._get_running_loop()
    if running is not None:
        return running
    policy = _compat.get_event_loop_policy()
    if _compat.may_create_current_loop(policy):
        policy.set_event_loop(made_on_demand(new_event_loop()))
    loop: AbstractEventLoop = policy.get_event_loop()
    return loop
