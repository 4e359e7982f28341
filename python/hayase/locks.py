"""`Lock`, `Event`, `Condition`, `Semaphore` and the like, written in Rust. Like `asyncio.locks`, whose names are here too.

`Barrier` is asyncio's, on a condition of ours: all its parties meet once, and it does no more than count them.
"""

from asyncio.locks import Barrier, BoundedSemaphore, Condition, Event, Lock, Semaphore
from typing import TYPE_CHECKING

from . import _compat

if not TYPE_CHECKING:  # to a type checker they are asyncio's
    _theirs = (Condition, Event, Lock, Semaphore)

    from ._core import BoundedSemaphore, Condition, Event, Lock, Semaphore

    for _ours, _class in zip((Condition, Event, Lock, Semaphore), _theirs, strict=True):
        _compat.resemble_methods(_ours, _class)

    class Barrier(Barrier):
        """A barrier for so many parties: who waits goes on when all of them do."""

        def __init__(self, parties):
            super().__init__(parties)
            self._cond = Condition()


__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Semaphore"]
