"""Reading from a `StreamReader` that has everything already: what a message costs beyond its way through the loop."""

from __future__ import annotations

import asyncio

from benchmarks.case import Case, Timed

SUBJECT = "Streams: reading from the buffer"
MESSAGE_BYTES = 1024
MESSAGES_FED = 32
"""At a time: half of the limit at which a reader would pause its transport."""


LINE = b"." * (MESSAGE_BYTES - 2) + b"\r\n"
FED = LINE * MESSAGES_FED


async def read_line(count: int) -> None:
    reader = asyncio.StreamReader()
    for _ in range(count // MESSAGES_FED):
        reader.feed_data(FED)
        for _ in range(MESSAGES_FED):
            await reader.readline()


async def read_exactly(count: int) -> None:
    reader = asyncio.StreamReader()
    for _ in range(count // MESSAGES_FED):
        reader.feed_data(FED)
        for _ in range(MESSAGES_FED):
            await reader.readexactly(MESSAGE_BYTES)


async def read_until(count: int) -> None:
    reader = asyncio.StreamReader()
    for _ in range(count // MESSAGES_FED):
        reader.feed_data(FED)
        for _ in range(MESSAGES_FED):
            await reader.readuntil(b"\r\n")


async def read_some(count: int) -> None:
    reader = asyncio.StreamReader()
    for _ in range(count // MESSAGES_FED):
        reader.feed_data(FED)
        for _ in range(MESSAGES_FED):
            await reader.read(MESSAGE_BYTES)


CASES: tuple[Case, ...] = (
    Timed("reader_readline", SUBJECT, read_line, 100_000),
    Timed("reader_readexactly", SUBJECT, read_exactly, 100_000),
    Timed("reader_readuntil", SUBJECT, read_until, 100_000),
    Timed("reader_read", SUBJECT, read_some, 100_000),
)
