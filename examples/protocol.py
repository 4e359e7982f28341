"""The layer under the streams: a protocol gets bytes as they come, and is told when the peer is slow."""

import asyncio

import hayase


class Shout(asyncio.Protocol):
    """Sends everything back in capitals."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())

    def pause_writing(self) -> None:
        self.transport.pause_reading()  # a peer that does not read is not read from either

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Listen(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.closed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(self.heard)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Shout, "127.0.0.1", 0)
    async with server:
        transport, listen = await loop.create_connection(Listen, *server.sockets[0].getsockname())
        transport.writelines([b"is anybody ", b"there?"])
        transport.write_eof()
        print((await listen.closed).decode())


if __name__ == "__main__":
    hayase.run(main())
