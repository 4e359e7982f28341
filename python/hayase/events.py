"""The event loop, as a class and as a factory. The loop itself is Rust: `hayase._core.Loop`.

Like `asyncio.events`, whose public names are here too.
"""

import asyncio
import warnings
from asyncio.events import *
from collections.abc import Callable

from . import _compat, _core
from .sendfile import SendfileMixin
from .subprocesses import SubprocessMixin


# The extension's signatures are a little wider than those of the abstract class.
class EventLoop(SendfileMixin, SubprocessMixin, _core.Loop, asyncio.AbstractEventLoop):  # type: ignore[misc]
    """An asyncio event loop. `asyncio.Runner(loop_factory=hayase.EventLoop)` is one way to use it.

    What a loop does runs per callback, and that is the extension's. The class exists to be an
    `asyncio.AbstractEventLoop`, which a class of an extension cannot inherit from, and to warn when it is forgotten.
    """

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self.is_closed():
            return
        _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
        if not self.is_running():
            self.close()


_compat.resemble_methods(_core.Loop, asyncio.SelectorEventLoop)
_compat.resemble_methods(_core.Server, asyncio.base_events.Server)


def new_event_loop() -> EventLoop:  # type: ignore[no-redef]  # in asyncio.events too
    """Make an event loop; it is nobody's current loop. Suits every `loop_factory` argument."""
    return EventLoop()
