"""Connections that come and go, and connections that stay and say nothing."""

from __future__ import annotations

from benchmarks.case import Case, Idle, Serve, Served
from benchmarks.cases.tcp import serve_protocol, serve_streams

IDLE = 10_000


def _connect(name: str, serve: Serve) -> Served:
    """Connect, one echo of 64 bytes, close; 16 at a time."""
    return Served(name, "Connect, echo, close", serve, "connect", connections=16, size_bytes=64, native=True)


CASES: tuple[Case, ...] = (
    _connect("connect", serve_protocol),
    _connect("connect_streams", serve_streams),
    Idle("mem_connection_protocol", "Memory", serve_protocol, IDLE),
    Idle("mem_connection_streams", "Memory", serve_streams, IDLE),
)
