"""`TaskGroup`, written in Rust. Like `asyncio.taskgroups`, whose name is here too."""

from asyncio.taskgroups import TaskGroup
from typing import TYPE_CHECKING

from . import _compat

if not TYPE_CHECKING:  # to a type checker it is asyncio's
    _theirs = TaskGroup

    from ._core import TaskGroup

    _compat.resemble_methods(TaskGroup, _theirs)

__all__ = ["TaskGroup"]
