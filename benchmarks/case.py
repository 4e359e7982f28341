"""The kinds of case there are.

A case is what one contender is measured at, in a process of its own. Its body is an ordinary asyncio program: it must
not know which loop runs it, because what is imported as asyncio has to be the only difference between two columns of a table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Announce: TypeAlias = Callable[[int | str], None]
"""A server calls it once, with its port or its abstract Unix name, when it accepts connections."""

Serve: TypeAlias = Callable[[Announce], Awaitable[None]]
"""A server program: announces its port and serves until it is killed."""

LoadMode: TypeAlias = Literal["echo", "framed", "lines", "connect", "http", "download"]
SpokenTransport: TypeAlias = Literal["tcp", "tls", "udp", "unix"]


@dataclass(frozen=True)
class Timed:
    """One process and nobody else: CPU time of `body(count)` divided by `count`, in nanoseconds."""

    name: str
    subject: str
    body: Callable[[int], Awaitable[None]]
    count: int
    unit: Literal["ns"] = "ns"


@dataclass(frozen=True)
class Client:
    """As `Timed`, but there is a native TCP echo server on the other CPU: `body(port, count)`."""

    name: str
    subject: str
    body: Callable[[int, int], Awaitable[None]]
    count: int
    unit: Literal["ns"] = "ns"


@dataclass(frozen=True)
class Held:
    """Memory: growth of the process while it holds what `hold(count)` returned, divided by `count`, in bytes."""

    name: str
    subject: str
    hold: Callable[[int], Awaitable[list[object]]]
    count: int
    unit: Literal["B"] = "B"


@dataclass(frozen=True)
class Served:
    """A server under load: CPU time of the server's process per operation, in microseconds."""

    name: str
    subject: str
    serve: Serve
    mode: LoadMode
    connections: int
    size_bytes: int
    native: bool
    """The native echo server is shown beside it, as the limit."""
    transport: SpokenTransport = "tcp"
    unit: Literal["µs"] = "µs"


@dataclass(frozen=True)
class Idle:
    """Memory: growth of a server's process by `connections` idle connections, divided by them, in bytes."""

    name: str
    subject: str
    serve: Serve
    connections: int
    transport: Literal["tcp", "tls"] = "tcp"
    unit: Literal["B"] = "B"


Case: TypeAlias = Timed | Client | Held | Served | Idle
