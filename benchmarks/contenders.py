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
UNOPTIMISED = "(UNOPTIMISED BUILD: its figures mean nothing)"
"""Said wherever the version is."""


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """How `asyncio.Runner` makes the loop. An ImportError says that the contender is not installed."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    module = importlib.import_module(name)
    if name == OURS:
        # As under `python -m hayase`: asyncio's streams and all that stands beside the loop are ours too.
        module.install()
    factory: Callable[[], asyncio.AbstractEventLoop] = module.new_event_loop
    return factory


def version(name: str) -> str:
    if name == "asyncio":
        return platform.python_version()
    module = importlib.import_module(name)
    try:
        number = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # A build in the source tree has no metadata.
        number = str(getattr(module, "__version__", "of the source tree"))
    if name == OURS and module.build_info().get("profile") != "optimised":
        return f"{number} {UNOPTIMISED}"
    return number
