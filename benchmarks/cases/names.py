"""`loop.getaddrinfo`: a name that needs the resolver (it is in /etc/hosts), and a number that does not."""

from __future__ import annotations

import asyncio
import socket

from benchmarks.case import Case, Timed

SUBJECT = "Names"
PORT = 80


async def getaddrinfo_localhost(count: int) -> None:
    await _look_up("localhost", count)


async def getaddrinfo_numeric(count: int) -> None:
    await _look_up("127.0.0.1", count)


async def _look_up(host: str, count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)


CASES: tuple[Case, ...] = (
    Timed("getaddrinfo_localhost", SUBJECT, getaddrinfo_localhost, 500),
    Timed("getaddrinfo_numeric", SUBJECT, getaddrinfo_numeric, 2_000),
)
