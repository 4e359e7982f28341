"""Coroutines that stories are made of: one that never ends, and one that lets everything end that can."""

from __future__ import annotations

import asyncio


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def settle() -> None:
    """Some turns of the loop: more than any chain of wake-ups in the tests has links."""
    for _ in range(12):
        await asyncio.sleep(0)
