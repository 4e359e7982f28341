"""Contexts of the tests' own authority, and a TLS peer that a test plays step by step over a plain socket.

What must stay true: the peer never does on its own what a test does not say, so that it can misbehave in any way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from recording import Record, Recording

CERTIFICATES = Path(__file__).parent / "certificates"
AUTHORITY = CERTIFICATES / "authority.pem"


def server_context(certificate: str = "server", *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    context.load_verify_locations(AUTHORITY)
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def client_context(certificate: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=AUTHORITY)
    if certificate:
        context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    return context


@contextlib.asynccontextmanager
async def tls_connected(
    client: Callable[[], Any] = Recording,
    server: Callable[[], Any] = Recording,
    *,
    of_client: ssl.SSLContext | None = None,
    of_server: ssl.SSLContext | None = None,
    **keywords: Any,
) -> AsyncIterator[tuple[Any, Any]]:
    """A client's and a server's protocol, connected by TLS over loopback. Both are gone at the end."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Any] = loop.create_future()

    def accept() -> Any:
        protocol = server()
        accepted.set_result(protocol)
        return protocol

    listening = await loop.create_server(accept, "127.0.0.1", 0, ssl=of_server or server_context())
    near = far = None
    try:
        port = listening.sockets[0].getsockname()[1]
        context = of_client or client_context()
        _, near = await loop.create_connection(client, "127.0.0.1", port, ssl=context, **keywords)
        far = await accepted
        if isinstance(far, Record):
            await far.connected
        yield near, far
    finally:
        listening.close()
        for protocol in (near, far):
            if isinstance(protocol, Record) and not protocol.closed.done() and protocol.transport:
                protocol.transport.abort()
                await protocol.closed
        await listening.wait_closed()


class Peer:
    """The other end of a connection: a socket, and TLS that is spoken only when the test says so."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None, *, server_side: bool) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or (server_context() if server_side else client_context())
        hostname = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=hostname)

    async def send_raw(self, data: bytes, *, pieces_of: int | None = None) -> None:
        for start in range(0, len(data), pieces_of or len(data) or 1):
            await self.loop.sock_sendall(self.sock, data[start : start + (pieces_of or len(data))])
            if pieces_of:
                await asyncio.sleep(0)

    async def send_due(self, *, pieces_of: int | None = None) -> None:
        if self.outgoing.pending:
            await self.send_raw(self.outgoing.read(), pieces_of=pieces_of)

    async def receive_more(self) -> bool:
        """False at the end of the stream."""
        data = await self.loop.sock_recv(self.sock, 65536)
        self.incoming.write(data)
        return bool(data)

    async def _until_done(self, step: Callable[[], Any], pieces_of: int | None = None) -> Any:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self.send_due(pieces_of=pieces_of)
                if not await self.receive_more():
                    raise EOFError("the stream ended") from None
            else:
                await self.send_due(pieces_of=pieces_of)
                return result

    async def handshake(self, *, pieces_of: int | None = None) -> None:
        await self._until_done(self.tls.do_handshake, pieces_of)

    async def write(self, data: bytes, *, pieces_of: int | None = None) -> None:
        self.tls.write(data)
        await self.send_due(pieces_of=pieces_of)

    async def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += await self._until_done(functools.partial(self.tls.read, count - len(data)))
        return bytes(data)

    async def read_close_notify(self) -> None:
        """Everything until the peer says that nothing follows."""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while await self._until_done(lambda: self.tls.read(65536)):
                pass

    async def close_notify(self) -> None:
        """Says it, without waiting for the peer's."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.send_due()

    async def end_of_stream(self) -> None:
        while await self.receive_more():
            pass

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


@contextlib.asynccontextmanager
async def peer_of_server(
    factory: Callable[[], Any] = Recording, *, context: ssl.SSLContext | None = None, **keywords: Any
) -> AsyncIterator[tuple[Peer, asyncio.Future[Any]]]:
    """A peer connected to a TLS server of the loop, and a future for the server's protocol."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Any] = loop.create_future()

    def accept() -> Any:
        protocol = factory()
        if not made.done():
            made.set_result(protocol)
        return protocol

    server = await loop.create_server(accept, "127.0.0.1", 0, ssl=context or server_context(), **keywords)
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        yield Peer(sock, server_side=False), made
    finally:
        sock.close()
        server.close()
        if made.done() and isinstance(made.result(), Record):
            protocol = made.result()
            if protocol.transport and not protocol.closed.done():
                protocol.transport.abort()
                await protocol.closed
        await server.wait_closed()


@contextlib.asynccontextmanager
async def peer_of_client(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Any, asyncio.Future[Peer]]]:
    """An address to connect to, and a future for the peer that a client of the loop meets there."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def accept() -> Peer:
            sock, _ = await loop.sock_accept(listening)
            return Peer(sock, context, server_side=True)

        accepted = asyncio.ensure_future(accept())
        try:
            yield listening.getsockname(), accepted
        finally:
            accepted.cancel()
            await asyncio.wait([accepted])
            if not accepted.cancelled() and not accepted.exception():
                accepted.result().sock.close()
