"""Python's asyncio, implemented in Rust.

    import hayase
    hayase.run(main())

runs a program on hayase's loop. `import hayase as asyncio` works too: every public name of the running version's asyncio
is here. `python -m hayase program.py` runs a program that says `import asyncio`, as it is.

Importing this package changes nothing in asyncio; `install()` does, and `uninstall()` changes it back.
"""

import asyncio
import platform
from asyncio import *
from typing import TYPE_CHECKING, Any

from . import _compat as _compat  # the first, because it refuses what hayase cannot run on
from . import _core
from .events import EventLoop, new_event_loop
from .install import install, uninstall
from .locks import Barrier, BoundedSemaphore, Condition, Event, Lock, Semaphore
from .policy import EventLoopPolicy, get_event_loop
from .queues import LifoQueue, PriorityQueue, Queue, QueueShutDown
from .runners import Runner, run
from .streams import (
    StreamReader,
    StreamReaderProtocol,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from .subprocess import create_subprocess_exec, create_subprocess_shell
from .taskgroups import TaskGroup
from .tasks import as_completed, ensure_future, gather, shield, sleep, wait, wait_for
from .timeouts import Timeout, timeout, timeout_at

# `Future` and `Task` are asyncio's. What hayase's loop makes are private subclasses of them: a public Future of our own
# could not be both a subclass of asyncio's Future and a base of hayase's Task, and `isinstance` would lie.

__version__: str = _core.__version__

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "EventLoop",
    "EventLoopPolicy",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "QueueShutDown",
    "Runner",
    "Semaphore",
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "TaskGroup",
    "Timeout",
    "as_completed",
    "build_info",
    "create_subprocess_exec",
    "create_subprocess_shell",
    "ensure_future",
    "gather",
    "get_event_loop",
    "install",
    "new_event_loop",
    "open_connection",
    "open_unix_connection",
    "run",
    "shield",
    "sleep",
    "start_server",
    "start_unix_server",
    "timeout",
    "timeout_at",
    "uninstall",
    "wait",
    "wait_for",
]
__all__ += asyncio.__all__  # most of ours are in both


def build_info() -> dict[str, str]:
    """What this build of hayase is, for bug reports: versions, compiler profile, where the extension lies."""
    return {
        "hayase": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "extension": _core.__file__,
        **_core.build_info(),
    }


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # What asyncio has besides its public names: submodules, and names it deprecated and computes, with its warning.
        if name.startswith("__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(asyncio, name)
        except AttributeError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
