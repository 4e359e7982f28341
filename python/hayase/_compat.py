"""Everything in the Python package that depends on the running Python version.

No other file looks at `sys.version_info`; a test keeps it so. What is here has the name of the newest version's way, so
that dropping a version is a change of this file alone. (The extension has the same rule: `raw/compat.rs`.)
"""

import asyncio
import importlib.util
import inspect
import linecache
import sys
import threading
from asyncio import events, unix_events
from collections.abc import Awaitable, Callable, Coroutine
from types import MethodDescriptorType
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")

if "t" in sys.abiflags:
    # Without this, all one would hear is that there is no `_core`.
    _name = "python{}.{}".format(*sys.version_info)
    raise ImportError(
        "hayase needs the GIL, and this is a free-threaded build of Python: "
        f"use the regular build ({_name}, not {_name}t)"
    )

if importlib.util.find_spec("hayase._core") is None:
    raise ImportError(
        f"hayase is not built for this Python ({sys.implementation.cache_tag}): install it with this Python's pip; "
        "in a clone, `make develop` builds it in place"
    )

# What `asyncio.run` runs.
if sys.version_info >= (3, 14):
    MainAwaitable: TypeAlias = Awaitable[_T]
else:
    MainAwaitable: TypeAlias = Coroutine[Any, Any, _T]

# 3.14 deprecates policies and 3.16 removes them. Until then they are the one thing that `asyncio.run`,
# `asyncio.new_event_loop` and `asyncio.get_event_loop` all ask. From 3.14 on the public names warn, on behalf of the
# caller; hayase is not the caller the warning is meant for, so it uses what those names lead to.
_policies: Any = events
DefaultEventLoopPolicy: Any
if sys.version_info >= (3, 14):
    DefaultEventLoopPolicy = unix_events._DefaultEventLoopPolicy
    get_event_loop_policy = _policies._get_event_loop_policy
    set_event_loop_policy = _policies._set_event_loop_policy
else:
    DefaultEventLoopPolicy = asyncio.DefaultEventLoopPolicy
    get_event_loop_policy = asyncio.get_event_loop_policy
    set_event_loop_policy = asyncio.set_event_loop_policy


def event_loop_policy_or_none() -> Any:
    """The policy in use; None if nobody has asked for one yet, which `get_event_loop_policy` would change."""
    return _policies._event_loop_policy


def may_create_current_loop(policy: Any) -> bool:
    """Whether `policy` has no loop for this thread and nobody has said that there shall be none.

    This is when asyncio made a loop on demand: always up to 3.11, with a warning in 3.12 and 3.13, no more since. Asking
    the policy itself would make the wrong kind of loop, warn, or raise. A policy with its own way of keeping loops
    (it has no `_local`) keeps it.
    """
    local = getattr(policy, "_local", None)
    return (
        getattr(local, "_loop", policy) is None
        and not getattr(local, "_set_called", False)
        and threading.current_thread() is threading.main_thread()
    )


# Which of the two asyncio talks to.
CHILD_WATCHER_IS_WHAT_IT_ENTERS = sys.version_info < (3, 12)


def child_watcher_of_the_program() -> Any:
    """The child watcher that the program chose itself, which has to be told of children. None: the loop's own way.

    The two kinds that asyncio takes by default do what the loop does without them. The others may collect every child
    of the process, so they have to know. 3.14 has no child watchers any more.
    """
    if sys.version_info >= (3, 14):
        return None
    policy = event_loop_policy_or_none()
    watcher = getattr(policy, "_watcher", None)
    if type(watcher) in (unix_events.ThreadedChildWatcher, unix_events.PidfdChildWatcher):
        return None
    return watcher


def remember_lines(filename: str, text: str) -> None:
    """Let tracebacks show the lines of a program that has no file, where the interpreter itself does: 3.13 and newer."""
    if sys.version_info >= (3, 13):
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


# 3.13 has queues that can be shut down.
if sys.version_info >= (3, 13):
    from asyncio import QueueShutDown as QueueShutDown
else:

    class QueueShutDown(Exception):
        """Raised when putting on to or getting from a queue that was shut down."""

        __module__ = "hayase.queues"


# Since 3.12 `wait_for` awaits in the caller's task, under a timeout; before, it makes a task.
WAIT_FOR_RUNS_INLINE = sys.version_info >= (3, 12)


def new_object(cls: type[object]) -> object:
    """What `copy` and `pickle` make before they fill it: made without `__init__`."""
    return cls.__new__(cls)


def resemble_methods(ours: type, theirs: type) -> None:
    """Let the methods of a class of the extension say that they make coroutines, where those of asyncio's class do.

    Not twice: the package may be imported anew, the extension is made once.
    """
    from . import _core  # not before the check for the GIL

    for name, method in list(vars(ours).items()):
        if type(method) is not MethodDescriptorType:
            continue
        if inspect.iscoroutinefunction(getattr(theirs, name, None)):
            marked: Any = _core.method(method)
            mark_coroutine_function(marked, getattr(theirs, name))
            setattr(ours, name, marked)


def mark_coroutine_function(function: Any, theirs: Any) -> None:
    """`inspect.iscoroutinefunction` and asyncio's look for marks, and `unittest.mock` asks those."""
    if sys.version_info < (3, 12):
        # There `inspect` believes only what looks like a function with such code. Its parameters are its own, if it says them.
        try:
            function.__signature__ = inspect.signature(function)
        except ValueError:
            function.__signature__ = inspect.signature(theirs)
        function.__defaults__ = function.__kwdefaults__ = None
    # So does `unittest.mock.create_autospec`, on every version.
    function.__code__ = theirs.__code__
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    if sys.version_info < (3, 14):
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


def resemble(function: Any, theirs: Callable[..., Any]) -> None:
    """Give a function of the extension the signature of asyncio's, and if that is a coroutine function, its marks."""
    function.__signature__ = inspect.signature(theirs)
    if inspect.iscoroutinefunction(theirs):
        mark_coroutine_function(function, theirs)
