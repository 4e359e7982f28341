"""`Lock`, `Event`, `Semaphore` and the like, written in Rust. Like `asyncio.locks`, whose names are here too."""

from asyncio.locks import Barrier, BoundedSemaphore, Condition, Event, Lock, Semaphore
from typing import TYPE_CHECKING

if not TYPE_CHECKING:  # to a type checker they are asyncio's
    from ._core import BoundedSemaphore, Event, Lock, Semaphore

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Semaphore"]
