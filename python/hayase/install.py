"""`install()` and `uninstall()`: programs that say `import asyncio` get hayase, or get asyncio back.

Importing hayase changes nothing in asyncio; this is the only file that does. What it replaced it remembers, and it puts
back only what is still its own, so that whoever replaced something later is not undone.
"""

from types import ModuleType
from typing import Any

from . import _compat
from .policy import EventLoopPolicy
from .replacements import replacements

_REPLACED: list[tuple[ModuleType, str, Any]] = list(replacements())

_policy: EventLoopPolicy | None = None
_previous_policy: Any = None
_previous_functions: list[Any] = []


def install() -> None:
    """From now on `asyncio.run`, `new_event_loop` and `get_event_loop` make and use hayase's loops.

    A loop that exists or runs already stays what it is. Installing twice is the same as once.
    """
    global _policy, _previous_policy
    if _policy is not None and _compat.event_loop_policy_or_none() is _policy:
        return
    uninstall()
    _policy = EventLoopPolicy()
    _previous_policy = _compat.event_loop_policy_or_none()
    _compat.set_event_loop_policy(_policy)
    for module, name, replacement in _REPLACED:
        _previous_functions.append(getattr(module, name))
        setattr(module, name, replacement)


def uninstall() -> None:
    """Undo `install()`: asyncio is as it was before. Without an `install()` it does nothing."""
    global _policy, _previous_policy
    if _policy is None:
        return
    if _compat.event_loop_policy_or_none() is _policy:
        _compat.set_event_loop_policy(_previous_policy)
    for (module, name, replacement), previous in zip(_REPLACED, _previous_functions, strict=True):
        if getattr(module, name) is replacement:
            setattr(module, name, previous)
    _policy = _previous_policy = None
    _previous_functions.clear()
