"""Children: the shortest there is, and one whose output is read. The children's own CPU time does not count."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE

from benchmarks.case import Case, Timed

SUBJECT = "Subprocesses"
CHILDREN = 20


async def subprocess_wait(count: int) -> None:
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("true")
        if status := await process.wait():
            raise RuntimeError(f"true ended with status {status}")


async def subprocess_output(count: int) -> None:
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("echo", "hello", stdout=PIPE)
        output, _ = await process.communicate()
        if output != b"hello\n":
            raise RuntimeError(f"echo wrote {output!r}")


CASES: tuple[Case, ...] = (
    Timed("subprocess_wait", SUBJECT, subprocess_wait, CHILDREN),
    Timed("subprocess_output", SUBJECT, subprocess_output, CHILDREN),
)
