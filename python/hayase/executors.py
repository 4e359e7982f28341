"""Giving a call of ours to the threads of a `ThreadPoolExecutor`, without the future that `submit` would make.

What must stay true:
- Only an executor whose `submit` is the standard library's is given calls this way, and under the same two locks.
- An executor that takes no calls is left to its own `submit`, which says why.
"""

from concurrent.futures import thread
from types import FunctionType, MethodType
from typing import Any

_module: Any = thread  # its private names are no part of the type stubs


def submit(executor: Any, item: Any) -> bool:
    """Queue `item`, whose `run` a thread will call. False: it was not queued, and `executor.submit` has to judge."""
    if not _is_the_standard_one(executor.submit):
        return False
    with executor._shutdown_lock, _module._global_shutdown_lock:
        if executor._broken or executor._shutdown or _module._shutdown:
            return False
        executor._work_queue.put(item)
        executor._adjust_thread_count()
    return True


def _is_the_standard_one(method: Any) -> bool:
    """Whether no program and no tracer has put a function of its own in the way, or around it."""
    return (
        type(method) is MethodType
        and type(method.__func__) is FunctionType
        and method.__func__.__globals__ is _module.__dict__
    )
