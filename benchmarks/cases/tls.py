"""TLS echo, and full handshakes. The certificate is the load generator's, which verifies it."""

from __future__ import annotations

import asyncio
import ssl

from benchmarks.case import Announce, Case, Idle, Serve, Served
from benchmarks.cases.tcp import BACKLOG, KIB, EchoProtocol, echo_streams, size_text
from benchmarks.generator import SOURCES

CONNECTIONS = (1, 50)
SIZES_BYTES = (KIB, 64 * KIB)
HANDSHAKES_AT_ONCE = 8
IDLE = 2_000
"""Fewer than of TCP: each begins with a handshake."""


async def serve_protocol(announce: Announce) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, "127.0.0.1", 0, backlog=BACKLOG, ssl=_context())
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


async def serve_streams(announce: Announce) -> None:
    server = await asyncio.start_server(echo_streams, "127.0.0.1", 0, backlog=BACKLOG, ssl=_context())
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SOURCES / "certificate.pem", SOURCES / "key.pem")
    return context


def _cases(way: str, serve: Serve) -> list[Case]:
    return [
        Served(
            name=f"tls_{way}/conns={connections}/size={size_text(size_bytes)}",
            subject=f"TLS echo, {way}",
            serve=serve,
            mode="echo",
            connections=connections,
            size_bytes=size_bytes,
            native=True,
            transport="tls",
        )
        for connections in CONNECTIONS
        for size_bytes in SIZES_BYTES
    ]


CASES: tuple[Case, ...] = (
    *_cases("protocol", serve_protocol),
    *_cases("streams", serve_streams),
    Served(
        name="tls_handshake",
        subject="Full TLS handshake, echo, close",
        serve=serve_protocol,
        mode="connect",
        connections=HANDSHAKES_AT_ONCE,
        size_bytes=64,
        native=True,
        transport="tls",
    ),
    Idle("mem_connection_tls", "Memory", serve_protocol, IDLE, transport="tls"),
)
