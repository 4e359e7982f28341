"""The loops, and how to make one."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import platform
from collections.abc import Callable

CONTENDERS = ("asyncio", "uvloop", "rloop", "rsloop", "zuvloop", "hayase")
"""In the order of the columns."""

NATIVE = "epoll"
"""The column of the native echo server. It is no loop; it shows how far there is to go."""

REFERENCE = "uvloop"
OURS = "hayase"


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """How `asyncio.Runner` makes the loop. An ImportError says that the contender is not installed."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(name).new_event_loop
    return factory


def version(name: str) -> str:
    if name == "asyncio":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # A build in the source tree has no metadata.
        return str(getattr(importlib.import_module(name), "__version__", "source tree"))
