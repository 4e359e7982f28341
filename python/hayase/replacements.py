"""Which names of asyncio are ours, module by module: what `install()` puts in place and `uninstall()` takes back.

A name is replaced in the submodule where it is defined, in `asyncio` itself, and in the other submodules that imported it
from there. Programs that say `from asyncio import Queue` before `install()` keep what they imported.
"""

import asyncio
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from . import locks, queues, streams, subprocess, taskgroups, tasks, timeouts

_NAMES: list[tuple[str, ModuleType, list[str]]] = [
    ("locks", locks, ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Semaphore"]),
    ("queues", queues, ["LifoQueue", "PriorityQueue", "Queue"]),
    (
        "streams",
        streams,
        [
            "StreamReader",
            "StreamReaderProtocol",
            "StreamWriter",
            "open_connection",
            "open_unix_connection",
            "start_server",
            "start_unix_server",
        ],
    ),
    ("subprocess", subprocess, ["create_subprocess_exec", "create_subprocess_shell"]),
    ("taskgroups", taskgroups, ["TaskGroup"]),
    ("tasks", tasks, ["as_completed", "gather", "shield", "sleep", "wait", "wait_for"]),
    ("timeouts", timeouts, ["Timeout", "timeout", "timeout_at"]),
]


def replacements() -> Iterator[tuple[ModuleType, str, Any]]:
    """Where a name is looked up, the name, and what is ours."""
    modules = [asyncio, *(module for name, module in sorted(sys.modules.items()) if name.startswith("asyncio."))]
    for submodule, ours, names in _NAMES:
        for name in names:
            theirs = getattr(sys.modules[f"asyncio.{submodule}"], name)
            for module in modules:
                if vars(module).get(name) is theirs:
                    yield module, name, getattr(ours, name)
