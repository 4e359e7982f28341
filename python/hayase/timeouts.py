"""`timeout`, `timeout_at` and `Timeout`, written in Rust. Like `asyncio.timeouts`, whose names are here too."""

from asyncio.timeouts import Timeout, timeout, timeout_at
from typing import TYPE_CHECKING

if not TYPE_CHECKING:  # to a type checker they are asyncio's
    from ._core import Timeout, timeout, timeout_at

__all__ = ["Timeout", "timeout", "timeout_at"]
