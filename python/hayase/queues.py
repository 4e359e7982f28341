"""`Queue`, `PriorityQueue` and `LifoQueue`, written in Rust. Like `asyncio.queues`, whose names are here too.

`QueueEmpty` and `QueueFull` are asyncio's. So is `QueueShutDown`, which asyncio has since 3.13; before, it is ours, and our
queues can be shut down on every version.
"""

from asyncio.queues import LifoQueue, PriorityQueue, Queue, QueueEmpty, QueueFull
from typing import TYPE_CHECKING

from . import _compat
from ._compat import QueueShutDown

if not TYPE_CHECKING:  # to a type checker they are asyncio's
    _theirs = Queue

    from ._core import LifoQueue, PriorityQueue, Queue

    _compat.resemble_methods(Queue, _theirs)

__all__ = ["LifoQueue", "PriorityQueue", "Queue", "QueueEmpty", "QueueFull", "QueueShutDown"]
