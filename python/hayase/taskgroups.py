"""`TaskGroup`, written in Rust. Like `asyncio.taskgroups`, whose name is here too."""

from asyncio.taskgroups import TaskGroup
from typing import TYPE_CHECKING

if not TYPE_CHECKING:  # to a type checker it is asyncio's
    from ._core import TaskGroup

__all__ = ["TaskGroup"]
