"""The event loop, as a class and as a factory. The loop itself is Rust: `hayase._core.Loop`.

Like `asyncio.events`, whose public names are here too.
"""

import asyncio
from asyncio.events import *

from . import _core

_Loop = getattr(_core, "Loop", type("NoLoopYet", (), {}))  # TODO: until the extension's loop has landed


class EventLoop(_Loop, asyncio.AbstractEventLoop):
    """An asyncio event loop. `asyncio.Runner(loop_factory=hayase.EventLoop)` is one way to use it.

    Nothing is defined here: what a loop does runs per callback, and that is the extension's. The class exists to be an
    `asyncio.AbstractEventLoop`, which a class of an extension cannot inherit from.
    """


def new_event_loop() -> EventLoop:  # type: ignore[no-redef]  # in asyncio.events too
    """Make an event loop; it is nobody's current loop. Suits every `loop_factory` argument."""
    return EventLoop()
