"""`timeout`, `timeout_at` and `Timeout`, written in Rust. Like `asyncio.timeouts`, whose names are here too."""

from asyncio.timeouts import Timeout, timeout, timeout_at
from typing import TYPE_CHECKING

from . import _compat

if not TYPE_CHECKING:  # to a type checker they are asyncio's
    _theirs, _class = (timeout, timeout_at), Timeout

    from ._core import Timeout, timeout, timeout_at

    for _ours, _function in zip((timeout, timeout_at), _theirs, strict=True):
        _compat.resemble(_ours, _function)
    _compat.resemble_methods(Timeout, _class)

__all__ = ["Timeout", "timeout", "timeout_at"]
