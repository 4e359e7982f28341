"""`Lock`, `Event`, `Condition`, `Semaphore`, `Barrier`, written in Rust. Like `asyncio.locks`, whose names are here too."""

from asyncio.locks import Barrier, BoundedSemaphore, Condition, Event, Lock, Semaphore
from typing import TYPE_CHECKING

from . import _compat

if not TYPE_CHECKING:  # to a type checker they are asyncio's
    _theirs = (Barrier, Condition, Event, Lock, Semaphore)

    from ._core import Barrier, BoundedSemaphore, Condition, Event, Lock, Semaphore

    for _ours, _class in zip((Barrier, Condition, Event, Lock, Semaphore), _theirs, strict=True):
        _compat.resemble_methods(_ours, _class)


__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Semaphore"]
